//! Tables for pod status.

use super::*;
