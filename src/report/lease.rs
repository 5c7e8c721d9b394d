//! The one place that words a lease: what ends it, and what it costs if nobody is there.

use crate::plan::Rings;

/// How it stands with one of the things that take a host down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// The provider has none, or it stops no bill.
    Missing,
    /// The create arms it.
    Offered,
    /// Armed, as far as is recorded or was seen.
    Armed,
    /// It was looked for and is not armed.
    Unarmed,
    /// Nobody could look.
    Unknown,
}

impl Ring {
    /// Tells how a ring stands that the provider offers or not, by whether it was seen armed.
    pub fn seen(is_offered: bool, armed: Result<bool, ()>) -> Self {
        match armed {
            _ if !is_offered => Self::Missing,
            Ok(true) => Self::Armed,
            Ok(false) => Self::Unarmed,
            Err(()) => Self::Unknown,
        }
    }

    /// Tells how a ring stands by the record alone.
    pub fn recorded(is_offered: bool, is_made: bool) -> Self {
        match (is_offered, is_made) {
            (false, _) => Self::Missing,
            (true, false) => Self::Offered,
            (true, true) => Self::Armed,
        }
    }

    fn word(self, missing: &'static str) -> &'static str {
        match self {
            Self::Missing => missing,
            Self::Offered => "armed by the create",
            Self::Armed => "armed",
            Self::Unarmed => "NOT armed",
            Self::Unknown => "cannot be asked",
        }
    }
}

/// Words what takes the host down when its lease ends: the cloud's clock, and the host's own timer.
pub fn rings(cloud: Ring, host: Ring) -> String {
    let (cloud, host) = (cloud.word("none"), host.word("none, powering off does not stop the bill"));
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
    fn nothing_is_called_armed_that_nobody_armed() {
        let said = |cloud, host| rings(cloud, host);
        let offered = said(Ring::recorded(true, false), Ring::recorded(false, false));
        assert!(
            offered.contains("clock (armed by the create)") && offered.contains("timer (none,"),
            "{offered}"
        );
        let looked = said(Ring::seen(true, Ok(false)), Ring::seen(true, Err(())));
        assert!(
            looked.contains("clock (NOT armed)") && looked.contains("timer (cannot be asked)"),
            "{looked}"
        );
        let armed = said(Ring::recorded(true, true), Ring::seen(true, Ok(true)));
        assert!(armed.contains("clock (armed)") && armed.contains("timer (armed)"), "{armed}");
        assert_eq!(Ring::seen(false, Ok(true)), Ring::Missing);
    }

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
