//! The one place that words a lease: what ends it, and what it costs if nobody is there.

use crate::plan::Rings;

/// Words what takes the host down when its lease ends.
pub fn rings(rings: Rings) -> String {
    let cloud = if rings.cloud_clock { "armed" } else { "none" };
    let host = if rings.host_timer { "armed" } else { "none, powering off does not stop the bill" };
    format!("the cloud's clock ({cloud}), the host's timer ({host}), `lane sweep --expired` where it runs")
}

/// Words what a host costs that nobody looks after, until the end of its lease and beyond.
pub fn if_you_vanish(worst: &str, until: &str, now: bool, rings: Rings) -> String {
    let now = if now { " now" } else { "" };
    if rings.cloud_clock || rings.host_timer {
        format!("if you vanish{now} it costs at most {worst} until {until}")
    } else {
        format!("if you vanish{now} it costs {worst} until {until}, and goes on until a sweep finds it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_is_said_only_where_something_ends_it() {
        let said = |cloud_clock, host_timer| {
            if_you_vanish("1.00 EUR", "noon", true, Rings { cloud_clock, host_timer })
        };
        assert_eq!(said(true, false), "if you vanish now it costs at most 1.00 EUR until noon");
        assert_eq!(said(false, true), said(true, false));
        assert!(said(false, false).ends_with("goes on until a sweep finds it"));
    }
}
