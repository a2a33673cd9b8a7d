"""The questions of the domain `units`, and the script that makes them."""
