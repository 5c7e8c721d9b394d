//! One host behind one trait: scripts, long jobs, folders. Knows neither spec nor provider.
//!
//! Everything that reaches a remote shell is quoted by [`quote`].

mod job;
mod keys;
mod ssh;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

pub use job::{JobOutcome, JobRequest, JobStart, run_job};
pub use keys::{HostKeys, LaneKeys};
pub use ssh::{OpenSsh, SshTarget};

#[cfg(test)]
pub(crate) mod testing {
    //! This machine as a host, for tests of other modules.
    pub(crate) use super::job::tests::{LocalRemote, request as job, run as run_here};
}

/// Quotes one word for a POSIX shell; the only function that does. A NUL byte cannot be carried and is an error.
pub fn quote(word: &str) -> Result<String, TransportError> {
    shlex::try_quote(word)
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| TransportError::Unquotable { word: word.escape_default().to_string() })
}

/// A script for the host's `sh`, with its arguments; the text is a constant, what varies comes as arguments or stdin.
#[derive(Debug, Clone)]
pub struct Script {
    /// What it is, for messages: `observe`, `install`.
    pub name: &'static str,
    /// POSIX shell; `$1`… are the arguments.
    pub text: &'static str,
    /// Its arguments, quoted on the way.
    pub args: Vec<String>,
    /// What it reads on standard input.
    pub stdin: Vec<u8>,
    /// Through `sudo -n`.
    pub as_root: bool,
    /// Limit; when it passes, the connection is dropped and the script may go on.
    pub timeout: Duration,
}

impl Script {
    /// Makes a script that runs as root with no arguments, no input and a minute's time.
    pub fn root(name: &'static str, text: &'static str) -> Self {
        Self { name, text, args: vec![], stdin: vec![], as_root: true, timeout: Duration::from_mins(1) }
    }

    /// Makes a script that runs as the login user.
    pub fn user(name: &'static str, text: &'static str) -> Self {
        Self { as_root: false, ..Self::root(name, text) }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets the limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What a script left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 + n for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Returns standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the last lines of standard error, else of standard output, for messages.
    pub fn tail(&self) -> String {
        let bytes = if self.stderr.trim_ascii().is_empty() { &self.stdout } else { &self.stderr };
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text.trim_end().lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Turns a code other than 0 into an error.
    pub fn success(self, script: &'static str) -> Result<Self, TransportError> {
        if self.code == 0 {
            Ok(self)
        } else {
            Err(TransportError::Script { script, code: self.code, tail: self.tail() })
        }
    }
}

/// A folder to copy to the host.
#[derive(Debug, Clone)]
pub struct SyncRequest {
    /// The source's name, for the lock that keeps two copies of it apart.
    pub name: String,
    /// Folder here.
    pub from: PathBuf,
    /// Absolute folder there.
    pub to: String,
    /// Paths to copy, relative to `from`, sorted: exactly these are brought over.
    pub files: Vec<String>,
    /// Paths that an earlier sync brought and that are no longer wanted: exactly these are deleted.
    pub remove: Vec<String>,
    /// Limit.
    pub timeout: Duration,
}

/// What a sync did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncStats {
    /// Files that went over.
    pub transferred: u64,
    /// Bytes that went over the wire.
    pub bytes: u64,
    /// Files deleted there.
    pub deleted: u64,
}

/// Why the host did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A word that no shell can carry.
    #[error("{word} holds a NUL byte, which no command line can carry")]
    Unquotable {
        /// The word, escaped.
        word: String,
    },
    /// No connection, or it was lost: the script may or may not have run.
    #[error("no connection to {address}: {message}")]
    Connection {
        /// Where to.
        address: String,
        /// What ssh said.
        message: String,
    },
    /// The host showed another key than the pinned one.
    #[error("{address} is not the host that lane made: its SSH host key is not the pinned one")]
    HostKey {
        /// Where to.
        address: String,
    },
    /// The host let us connect but not log in.
    #[error("{address} refuses the lane's key for user {user}: {message}")]
    Refused {
        /// Where to.
        address: String,
        /// Who.
        user: String,
        /// What ssh said.
        message: String,
    },
    /// A script ended with a code other than 0.
    #[error("{script} exited with {code}: {tail}")]
    Script {
        /// Its name.
        script: &'static str,
        /// Its exit code.
        code: i32,
        /// The end of what it wrote.
        tail: String,
    },
    /// It took too long.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What did.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// Something on this machine failed.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl TransportError {
    /// Tells whether trying again later may help, without knowing whether the script ran.
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Connection { .. })
    }
}

/// Takes output as it comes.
pub type Sink<'a> = dyn for<'chunk> FnMut(&'chunk [u8]) + Send + 'a;

/// A host that can be talked to.
#[async_trait]
pub trait Remote: fmt::Debug + Send + Sync {
    /// Runs a script to its end and returns what it left, whatever its exit code.
    async fn exec(&self, script: Script) -> Result<Output, TransportError>;

    /// Runs a script and hands over its standard output as it comes; returns the exit code.
    async fn stream(&self, script: Script, sink: &mut Sink<'_>) -> Result<i32, TransportError>;

    /// Copies a folder.
    async fn sync(&self, request: &SyncRequest) -> Result<SyncStats, TransportError>;

    /// Ends the shared connection, if one is open.
    async fn close(&self);
}
