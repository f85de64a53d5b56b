//! Kubernetes objects we use, and pure rules about them
