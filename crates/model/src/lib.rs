//! Architectures as readable forward passes over a device.
