//! Makes Services reachable from this node
