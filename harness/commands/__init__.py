"""One file per command; what they share (arguments, errors, console) is in `entry`."""
