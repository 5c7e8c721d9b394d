//! When the simulated process dies: every change of the disk and every effect elsewhere is a point at which it can.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The process is dead: nothing that it still tries has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    /// It died at this very point.
    Now,
    /// It was dead already.
    Before,
}

/// Counts a run's points and ends it at one of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Fate(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    reached: u64,
    dies_at: Option<u64>,
    dies_after: Option<&'static str>,
    dead: bool,
    died: CancellationToken,
    story: Vec<String>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("reached", &self.reached)
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl Fate {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new process, which dies when it reaches point `dies_at`, counted from 0, or the one after `dies_after`.
    pub(super) fn begin(&self, dies_at: Option<u64>, dies_after: Option<&'static str>) {
        let mut inner = self.inner();
        let story = std::mem::take(&mut inner.story);
        *inner = Inner { dies_at, dies_after, story, ..Inner::default() };
    }

    /// Passes a point: an error means that the process is dead and what was to follow does not happen.
    pub(super) fn reach(&self, what: impl FnOnce() -> String) -> Result<(), Dead> {
        let mut inner = self.inner();
        if inner.dead {
            return Err(Dead::Before);
        }
        let (at, last, what) = (inner.reached, inner.dies_at == Some(inner.reached), what());
        inner.reached += 1;
        if inner.dies_after.is_some_and(|after| what.contains(after)) {
            inner.dies_at = Some(inner.reached);
        }
        inner.story.push(format!("{at} {what}{}", if last { " ✝" } else { "" }));
        if last {
            inner.dead = true;
            inner.died.cancel();
            return Err(Dead::Now);
        }
        Ok(())
    }

    /// Adds a line to the story that a failed check prints.
    pub(super) fn tell(&self, line: impl Into<String>) {
        self.inner().story.push(line.into());
    }

    pub(super) fn is_dead(&self) -> bool {
        self.inner().dead
    }

    pub(super) fn died(&self) -> CancellationToken {
        self.inner().died.clone()
    }

    /// Returns how many points this process passed.
    pub(super) fn reached(&self) -> u64 {
        self.inner().reached
    }

    /// Returns what the process was about to do when it died, without its number.
    pub(super) fn last_words(&self) -> Vec<String> {
        let inner = self.inner();
        let last = inner.story.iter().rev().find(|line| line.ends_with('✝')).filter(|_| inner.dead);
        last.and_then(|line| line.split_once(' '))
            .map(|(_, what)| what.trim_end_matches(" ✝").to_owned())
            .into_iter()
            .collect()
    }

    /// Returns all that happened so far, one line each.
    pub(super) fn story(&self) -> String {
        self.inner().story.join("\n")
    }
}
