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

    /// Tells how the cloud's clock and the host's timer stand by the record alone.
    pub fn recorded(offered: Rings, is_made: bool) -> [Self; 2] {
        [offered.cloud_clock, offered.host_timer].map(|is_offered| match (is_offered, is_made) {
            (false, _) => Self::Missing,
            (true, false) => Self::Offered,
            (true, true) => Self::Armed,
        })
    }

    /// Tells whether the lease's end is the host's, as far as anybody knows.
    fn ends_it(self) -> bool {
        !matches!(self, Self::Missing | Self::Unarmed)
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
pub fn rings([cloud, host]: [Ring; 2]) -> String {
    let (cloud, host) = (cloud.word("none"), host.word("none, powering off does not stop the bill"));
    format!("the cloud's clock ({cloud}), the host's timer ({host}), `lane sweep --expired` where it runs")
}

/// Words what a host costs that nobody looks after, until the end of its lease and beyond.
pub fn if_you_vanish(worst: &str, until: &str, now: bool, rings: [Ring; 2]) -> String {
    let now = if now { " now" } else { "" };
    if rings.into_iter().any(Ring::ends_it) {
        format!("if you vanish{now} it costs at most {worst} until {until}")
    } else {
        format!("if you vanish{now} it costs {worst} until {until}, and goes on until a sweep finds it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(cloud_clock: bool, host_timer: bool) -> Rings {
        Rings { cloud_clock, host_timer }
    }

    #[test]
    fn nothing_is_called_armed_that_nobody_armed() {
        let before = rings(Ring::recorded(offered(true, false), false));
        assert!(
            before.contains("clock (armed by the create)") && before.contains("timer (none,"),
            "{before}"
        );
        let looked = rings([Ring::seen(true, Ok(false)), Ring::seen(true, Err(()))]);
        assert!(
            looked.contains("clock (NOT armed)") && looked.contains("timer (cannot be asked)"),
            "{looked}"
        );
        let armed = rings([Ring::recorded(offered(true, true), true)[0], Ring::seen(true, Ok(true))]);
        assert!(armed.contains("clock (armed)") && armed.contains("timer (armed)"), "{armed}");
        assert_eq!(Ring::seen(false, Ok(true)), Ring::Missing);
    }

    #[test]
    fn at_most_is_said_only_where_something_ends_it() {
        let said = |rings| if_you_vanish("1.00 EUR", "noon", true, rings);
        let by_record = |cloud, host| said(Ring::recorded(offered(cloud, host), true));
        assert_eq!(by_record(true, false), "if you vanish now it costs at most 1.00 EUR until noon");
        assert_eq!(by_record(false, true), by_record(true, false));
        assert!(by_record(false, false).ends_with("goes on until a sweep finds it"));
        // A timer that was seen not to be set ends nothing.
        assert!(said([Ring::Missing, Ring::Unarmed]).ends_with("goes on until a sweep finds it"));
        assert!(said([Ring::Missing, Ring::Unknown]).contains("at most"));
    }
}
