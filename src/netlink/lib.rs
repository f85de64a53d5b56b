//! What proxy and network need from the kernel: nf_tables, conntrack, links, addresses, routes
