"""The control plane, and the command."""
