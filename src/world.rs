//! What `lane` takes from the machine it runs on: clock, environment, folders, raw files, other programs, keyring.
//!
//! The only module that calls `std::fs`, `std::env` or the system clock, or begins a child process. Holds no setting and no data of a lane.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::process::Command;

pub mod fs;
pub mod keyring;

/// Tells the time; tests put a stopped clock here.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Variables that other programs get, with those that begin with `LC_`; any other may be a secret that is none of theirs.
const PASSED_ON: [&str; 17] = [
    "COLORTERM",
    "DISPLAY",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// Everything ambient, passed by hand so that a test can replace each part.
#[derive(Debug, Clone)]
pub struct World {
    clock: Arc<dyn Clock>,
    env: BTreeMap<String, String>,
    cwd: PathBuf,
}

impl World {
    /// Captures the process environment, its working folder and the system clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the process environment")]
    pub fn capture() -> std::io::Result<Self> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self { clock: Arc::new(SystemClock), env, cwd: std::env::current_dir()? })
    }

    /// Builds a world out of given parts, for tests.
    pub fn fixed(clock: Arc<dyn Clock>, env: BTreeMap<String, String>, cwd: PathBuf) -> Self {
        Self { clock, env, cwd }
    }

    /// Returns the same world with these variables set too.
    #[must_use]
    pub fn with(&self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut world = self.clone();
        world.env.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
        world
    }

    /// Returns the present moment by this world's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns a new ULID of the present moment, in lower case; in test builds a seed draws the same ones again.
    pub fn fresh_ulid(&self) -> String {
        let millis = u64::try_from(self.now().as_millisecond()).unwrap_or_default();
        let drawn = if cfg!(test) { fastrand::u128(..) } else { ulid::Ulid::generate().random() };
        ulid::Ulid::from_parts(millis, drawn).to_string().to_ascii_lowercase()
    }

    /// Returns a variable's value; an empty one counts as not set.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Begins the command line of another program, which gets no variable but those that any program needs.
    #[expect(clippy::disallowed_methods, reason = "the one place that makes a child process")]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let needed = |name: &str| PASSED_ON.contains(&name) || name.starts_with("LC_");
        command.env_clear().envs(self.env.iter().filter(|(name, _)| needed(name)));
        command
    }

    /// Returns the working folder.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Returns `$HOME`, or `/` where there is none.
    pub fn home(&self) -> PathBuf {
        PathBuf::from(self.var("HOME").unwrap_or("/"))
    }

    /// Returns the folder for things that can be made again: `$LANE_CACHE_DIR`, `$XDG_CACHE_HOME/lane`, `~/.cache/lane`.
    pub fn cache_dir(&self) -> PathBuf {
        match (self.var("LANE_CACHE_DIR"), self.var("XDG_CACHE_HOME")) {
            (Some(dir), _) => PathBuf::from(dir),
            (None, Some(dir)) => Path::new(dir).join("lane"),
            (None, None) => self.home().join(".cache/lane"),
        }
    }

    /// Expands a leading `~` and makes the path absolute against `base`; touches no file.
    pub fn absolute(&self, path: &str, base: &Path) -> PathBuf {
        let expanded = match path.strip_prefix('~') {
            Some("") => self.home(),
            Some(rest) if rest.starts_with('/') => self.home().join(rest.trim_start_matches('/')),
            _ => base.join(path),
        };
        normalize(&expanded)
    }
}

/// Removes `.` and `..` by text alone, so that a path that does not exist can be shown cleanly.
pub fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
