//! CNI runtime, the built-in pod network, node routes
