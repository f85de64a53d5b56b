//! Certificate authority, certificates, signing requests, service-account tokens
