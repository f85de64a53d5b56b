//! Numbers that may be percentages: `maxSurge`, `maxUnavailable`, `minAvailable`.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: invalid type: string is not a percentage")]
pub struct NotAPercentage(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Up,
    Down,
}

/// The number, or that share of `total`.
pub fn scaled(value: &IntOrString, total: i32, rounding: Rounding) -> Result<i32, NotAPercentage> {
    let percent = match value {
        IntOrString::Int(number) => return Ok(*number),
        IntOrString::String(text) => percentage(text)?,
    };
    let share = i64::from(percent) * i64::from(total);
    let rounded = match rounding {
        Rounding::Up => share.div_euclid(100) + i64::from(share.rem_euclid(100) != 0),
        Rounding::Down => share.div_euclid(100),
    };
    Ok(i32::try_from(rounded).unwrap_or(if rounded < 0 { i32::MIN } else { i32::MAX }))
}

/// The number before the `%`.
pub fn percentage(text: &str) -> Result<i32, NotAPercentage> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    number.ok_or_else(|| NotAPercentage(text.into()))
}

/// How many pods a rolling update may add, and may be without. Both cannot be zero: then one may be missing.
pub fn surge_and_unavailable(
    surge: &IntOrString,
    unavailable: &IntOrString,
    replicas: i32,
) -> Result<(i32, i32), NotAPercentage> {
    let surge = scaled(surge, replicas, Rounding::Up)?;
    let unavailable = scaled(unavailable, replicas, Rounding::Down)?;
    Ok(if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> IntOrString {
        IntOrString::String(text.into())
    }

    #[test]
    fn percentages_round_the_way_that_is_asked() {
        for (value, total, up, down) in [
            (IntOrString::Int(3), 10, 3, 3),
            (text("25%"), 10, 3, 2),
            (text("0%"), 10, 0, 0),
            (text("100%"), 10, 10, 10),
            (text("50%"), 3, 2, 1),
            (text("1000%"), i32::MAX, i32::MAX, i32::MAX),
        ] {
            assert_eq!(scaled(&value, total, Rounding::Up), Ok(up));
            assert_eq!(scaled(&value, total, Rounding::Down), Ok(down));
        }
        for bad in ["5", "a%", "%", "1.5%", ""] {
            assert!(scaled(&text(bad), 1, Rounding::Up).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rolling_update_can_always_move() {
        assert_eq!(surge_and_unavailable(&text("25%"), &text("25%"), 4), Ok((1, 1)));
        assert_eq!(surge_and_unavailable(&text("25%"), &text("25%"), 1), Ok((1, 0)));
        assert_eq!(surge_and_unavailable(&text("0%"), &text("10%"), 1), Ok((0, 1)));
    }
}
