"""A fault suite: clients write and read while the network and the server fail; `just faults`."""
