//! Tables for the planner.

use super::*;
