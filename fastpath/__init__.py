"""Userspace multicast replication for VXLAN and NVGRE overlays."""
