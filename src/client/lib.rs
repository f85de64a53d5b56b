//! List and watch, read-only stores, patches, leases, events, credentials
