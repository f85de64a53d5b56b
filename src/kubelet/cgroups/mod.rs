//! The cgroups of pods and QoS classes, v1 and v2.
