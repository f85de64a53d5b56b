//! Services as users write them, right and wrong.
