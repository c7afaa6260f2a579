"""What a box is to its fabric: one module a role. Pure: frames and time in, frames and events out."""
