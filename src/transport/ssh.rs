//! The system's OpenSSH and rsync over one shared connection. Knows no step and keeps no state of a lane.
//!
//! Nothing is trusted on first use: the host's key is pinned before the host exists.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::keys::known_host;
use super::{Output, Remote, Script, Sink, SyncRequest, SyncStats, TransportError, quote};
use crate::plan::Digester;
use crate::world::World;
use crate::world::fs::{self, Mode};

/// Longest path of a control socket: macOS takes 103 bytes, and ssh adds 17 while it makes one.
const SOCKET_PATH_MAX: usize = 103 - 17;

/// Runs on the host around every script: its exit code comes back on its own, under a mark that only this call knows.
///
/// `ssh` exits with 255 for a lost connection and for a script that exits with 255 alike, and with 0 where a forced
/// command ran instead; with the mark all three can be told apart.
const WRAPPER: &str = r#"mark=$1 as=$2 text=$3; shift 3
if [ "$as" = root ] && [ "$(id -u)" != 0 ]; then sudo -n sh -c "$text" lane "$@"; else sh -c "$text" lane "$@"; fi
code=$?; printf '\nlane-exit:%s:%s\n' "$mark" "$code" >&2"#;

/// Which host, as whom, by which keys.
#[derive(Debug, Clone)]
pub struct SshTarget {
    /// The host's name in the config and in `known_hosts`; its address may be reused by another host, this is not.
    pub alias: String,
    /// Name or address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Login user.
    pub user: String,
    /// File of the private key.
    pub identity: PathBuf,
    /// The pinned public host key: `ssh-ed25519 AAAA…`.
    pub host_public_key: String,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
}

/// A host that is reached by the system's `ssh`.
#[derive(Debug)]
pub struct OpenSsh {
    target: SshTarget,
    folder: PathBuf,
    socket: PathBuf,
    // Held while a shared connection is made, so that first connections at once make one and not many.
    first: Mutex<()>,
}

impl OpenSsh {
    /// Writes `ssh_config` and `known_hosts` into the lane's folder; opens no connection.
    pub fn new(world: &World, target: SshTarget, folder: &Path) -> Result<Self, TransportError> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            // Written only when it differs: another process may be reading it.
            match fs::read_optional(&path) {
                Ok(Some(old)) if old == text.as_bytes() => Ok(()),
                _ => fs::write_atomic(&path, text.as_bytes(), Mode::Private),
            }
            .map_err(|source| local(format!("cannot write {}", path.display()), source))
        };
        fs::create_dir_private(folder)
            .map_err(|source| local(format!("cannot make {}", folder.display()), source))?;
        write("known_hosts", &known_host(&target.alias, &target.host_public_key))?;
        let uid = fs::metadata(&folder.join("known_hosts"))
            .map_err(|source| local(format!("cannot read {}", folder.display()), source))?
            .uid();
        let socket = socket_path(world, uid, &target)?;
        write("ssh_config", &config_text(&target, &folder.join("known_hosts"), &socket))?;
        Ok(Self { target, folder: folder.to_owned(), socket, first: Mutex::new(()) })
    }

    /// Returns the config file: `ssh -F <this> <alias>` logs in from anywhere.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("ssh_config")
    }

    /// Returns the host's name in that file.
    pub fn host_alias(&self) -> &str {
        &self.target.alias
    }

    /// Proves that commands run: an account with a forced command lets one connect, prints something and runs nothing.
    pub async fn verify_login(&self) -> Result<(), TransportError> {
        let nonce = ulid::Ulid::generate().to_string();
        let script = Script::user("login", "printf %s \"$1\"").arg(&nonce).timeout(Duration::from_secs(30));
        let output = self.exec(script).await?.success("login")?;
        if output.stdout.ends_with(nonce.as_bytes()) { Ok(()) } else { Err(self.refused(&output.text())) }
    }

    /// Makes a client that never becomes the shared connection itself, so that it ends when its command does.
    fn client(&self) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.config_path()).args(["-o", "ControlMaster=no", "-T"]);
        detach(&mut command);
        command
    }

    /// Opens the shared connection if there is none.
    async fn connect(&self) -> Result<(), TransportError> {
        let _first = self.first.lock().await;
        if std::os::unix::net::UnixStream::connect(&self.socket).is_ok() {
            return Ok(());
        }
        // What stays behind in the background may keep its error output open: a file does not mind, a pipe would.
        let log =
            tempfile::NamedTempFile::new().map_err(|source| local("cannot make a temporary file", source))?;
        let errors = log.reopen().map_err(|source| local("cannot open a temporary file", source))?;
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.config_path()).args(["-T", &self.target.alias, "--", ":"]);
        detach(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let limit = self.target.connect_timeout * 2 + Duration::from_secs(10);
        let mut child = command.spawn().map_err(|source| local("cannot run ssh", source))?;
        let Ok(status) = tokio::time::timeout(limit, child.wait()).await else {
            return Err(self.connection(&format!("no answer within {limit:?}")));
        };
        let status = status.map_err(|source| local("cannot wait for ssh", source))?;
        // Any other code is that of a forced command, which the caller's own script will find out about.
        if status.code() == Some(255) {
            let message =
                fs::read(log.path()).map_err(|source| local("cannot read ssh's messages", source))?;
            return Err(self.classify(&String::from_utf8_lossy(&message)));
        }
        Ok(())
    }

    async fn run(&self, script: Script, sink: &mut Sink<'_>) -> Result<(i32, Vec<u8>), TransportError> {
        let mark = ulid::Ulid::generate().to_string();
        let mut line = format!("sh -c {} lane", quote(WRAPPER)?);
        let fixed = [mark.as_str(), if script.as_root { "root" } else { "user" }, script.text];
        for word in fixed.into_iter().chain(script.args.iter().map(String::as_str)) {
            line.push(' ');
            line.push_str(&quote(word)?);
        }
        let limit = script.timeout;
        let work = async {
            self.connect().await?;
            let mut command = self.client();
            command.args([self.target.alias.as_str(), "--", &line]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().map_err(|source| local("cannot run ssh", source))?;
            let stderr = talk(&mut child, &script.stdin, sink).await?;
            let status = child.wait().await.map_err(|source| local("cannot wait for ssh", source))?;
            Ok((status.code(), stderr))
        };
        let (code, stderr) = tokio::time::timeout(limit, work)
            .await
            .map_err(|_| TransportError::Timeout { what: script.name.to_owned(), limit })??;
        match take_exit(stderr, &mark) {
            Ok(found) => Ok(found),
            // ssh ended well, or with the code of something else: a command ran that is not ours.
            Err(stderr) if code.is_some_and(|code| code != 255) => {
                Err(self.refused(&String::from_utf8_lossy(&stderr)))
            }
            Err(stderr) => Err(self.classify(&String::from_utf8_lossy(&stderr))),
        }
    }

    fn classify(&self, message: &str) -> TransportError {
        let address = self.address();
        if ["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED", "no matching host key type"]
            .iter()
            .any(|sign| message.contains(sign))
        {
            TransportError::HostKey { address }
        } else if message.contains("Permission denied") {
            self.refused(message)
        } else {
            self.connection(message)
        }
    }

    fn connection(&self, message: &str) -> TransportError {
        let message = match message.trim() {
            "" => "the connection was lost".to_owned(),
            text => last_lines(text, 3),
        };
        TransportError::Connection { address: self.address(), message }
    }

    fn refused(&self, message: &str) -> TransportError {
        TransportError::Refused {
            address: self.address(),
            user: self.target.user.clone(),
            message: last_lines(message, 5),
        }
    }

    fn address(&self) -> String {
        match (self.target.port, self.target.address.contains(':')) {
            (22, _) => self.target.address.clone(),
            (port, false) => format!("{}:{port}", self.target.address),
            (port, true) => format!("[{}]:{port}", self.target.address),
        }
    }
}

#[async_trait]
impl Remote for OpenSsh {
    async fn exec(&self, script: Script) -> Result<Output, TransportError> {
        let mut stdout = Vec::new();
        match self.run(script, &mut |chunk| stdout.extend_from_slice(chunk)).await {
            Ok((code, stderr)) => Ok(Output { code, stdout, stderr }),
            // What a forced command prints goes to either stream.
            Err(TransportError::Refused { address, user, message }) if !stdout.is_empty() => {
                let said = format!("{}\n{message}", String::from_utf8_lossy(&stdout).trim());
                Err(TransportError::Refused { address, user, message: last_lines(&said, 5) })
            }
            Err(error) => Err(error),
        }
    }

    async fn stream(&self, script: Script, sink: &mut Sink<'_>) -> Result<i32, TransportError> {
        self.run(script, sink).await.map(|(code, _)| code)
    }

    async fn sync(&self, request: &SyncRequest) -> Result<SyncStats, TransportError> {
        let lock = format!("sync-{}", request.name);
        let script = Script::root("sync-prepare", include_str!("scripts/sync_prepare.sh"))
            .arg(&lock)
            .arg(&request.to)
            .arg(&self.target.user)
            .stdin(join_nul(&request.remove))
            .timeout(request.timeout);
        let prepared = self.exec(script).await?.success("sync-prepare")?;
        let mut stats =
            SyncStats { deleted: prepared.text().trim().parse().unwrap_or(0), ..SyncStats::default() };
        if request.files.is_empty() {
            return Ok(stats);
        }

        let mut command = Command::new("rsync");
        detach(&mut command);
        // By content and without times: a file that is brought over is newer there than anything built before, and one
        // that is not keeps its time. With the times of this machine an edit made while a build runs looks older than
        // that build, and make and cargo would keep what it made.
        command.args([
            "--links",
            "--perms",
            "--checksum",
            "--relative",
            "--from0",
            "--files-from=-",
            "--stats",
        ]);
        // Next to the config, whose own path may hold what rsync would split.
        command.current_dir(&self.folder);
        command.args(["-e", "ssh -F ssh_config -T -o ControlMaster=no"]);
        // The folder goes into the command and not into rsync's arguments, which its versions quote differently.
        let lock_path = format!("\"${{LANE_HOST_ROOT:-}}\"/run/lane/locks/{}", quote(&lock)?);
        command
            .arg(format!("--rsync-path=cd {} && exec flock -w 600 {lock_path} rsync", quote(&request.to)?));
        let mut from = request.from.clone().into_os_string();
        from.push("/");
        command.arg("--").arg(from).arg(format!("{}:./", self.target.alias));
        command.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let work = async {
            let mut child = command.spawn().map_err(|source| local("cannot run rsync", source))?;
            let mut stdout = Vec::new();
            let mut sink = |chunk: &[u8]| stdout.extend_from_slice(chunk);
            let stderr = talk(&mut child, &join_nul(&request.files), &mut sink).await?;
            let status = child.wait().await.map_err(|source| local("cannot wait for rsync", source))?;
            Ok::<_, TransportError>((status.code().unwrap_or(-1), stdout, stderr))
        };
        let (code, stdout, stderr) = tokio::time::timeout(request.timeout, work).await.map_err(|_| {
            TransportError::Timeout { what: format!("rsync of {}", request.name), limit: request.timeout }
        })??;
        match code {
            0 => {}
            // Of ssh, of the protocol's stream, of its sockets, of its timeouts.
            255 | 12 | 10 | 30 | 35 => return Err(self.classify(&String::from_utf8_lossy(&stderr))),
            code => {
                let tail = Output { code, stdout, stderr }.tail();
                return Err(TransportError::Script { script: "rsync", code, tail });
            }
        }
        let text = String::from_utf8_lossy(&stdout);
        stats.transferred =
            number_after(&text, &["Number of regular files transferred:", "Number of files transferred:"]);
        stats.bytes = number_after(&text, &["Total bytes sent:"]);
        Ok(stats)
    }

    async fn close(&self) {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.config_path()).args(["-O", "exit", &self.target.alias]);
        detach(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // No shared connection is as good as one that was closed.
        if let Ok(mut child) = command.spawn() {
            drop(tokio::time::timeout(Duration::from_secs(5), child.wait()).await);
        }
    }
}

/// Keeps the terminal's Ctrl-C away from a child, and ends it with whoever waits for it.
fn detach(command: &mut Command) {
    command.process_group(0).kill_on_drop(true);
}

/// Feeds a child's input and takes its outputs at the same time; returns its error output.
async fn talk(child: &mut Child, input: &[u8], sink: &mut Sink<'_>) -> Result<Vec<u8>, TransportError> {
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(local("cannot talk to ssh", std::io::ErrorKind::BrokenPipe.into()));
    };
    let feed = async {
        // A script need not read what it is given.
        drop(stdin.write_all(input).await);
        drop(stdin);
        Ok(())
    };
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stdout.read(&mut buffer).await? {
                0 => return Ok(()),
                n => sink(buffer.get(..n).unwrap_or_default()),
            }
        }
    };
    let errors = async {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let ((), (), bytes) = tokio::try_join!(feed, read, errors)
        .map_err(|source: std::io::Error| local("cannot read from ssh", source))?;
    Ok(bytes)
}

/// Takes the marked exit code out of error output; without one, gives the output back.
fn take_exit(mut stderr: Vec<u8>, mark: &str) -> Result<(i32, Vec<u8>), Vec<u8>> {
    let sign = format!("\nlane-exit:{mark}:");
    let found = stderr.windows(sign.len()).rposition(|window| window == sign.as_bytes());
    let Some(start) = found else { return Err(stderr) };
    let digits = start + sign.len();
    let Some(length) = stderr.iter().skip(digits).position(|&byte| byte == b'\n') else { return Err(stderr) };
    let code =
        stderr.get(digits..digits + length).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let Some(code) = code else { return Err(stderr) };
    stderr.drain(start..=digits + length);
    Ok((code, stderr))
}

fn config_text(target: &SshTarget, known_hosts: &Path, socket: &Path) -> String {
    let SshTarget { alias, address, port, user, identity, connect_timeout, .. } = target;
    let connect_timeout = connect_timeout.as_secs().max(1);
    let [identity, known_hosts, socket] = [identity.as_path(), known_hosts, socket].map(config_path);
    format!(
        "# Written by lane.\n\
         Host {alias}\n\
         HostName {address}\n\
         Port {port}\n\
         User {user}\n\
         IdentityFile {identity}\n\
         IdentitiesOnly yes\n\
         IdentityAgent none\n\
         PreferredAuthentications publickey\n\
         HostKeyAlias {alias}\n\
         HostKeyAlgorithms ssh-ed25519\n\
         UserKnownHostsFile {known_hosts}\n\
         GlobalKnownHostsFile none\n\
         StrictHostKeyChecking yes\n\
         UpdateHostKeys no\n\
         CheckHostIP no\n\
         BatchMode yes\n\
         ControlMaster auto\n\
         ControlPath {socket}\n\
         ControlPersist 10m\n\
         ServerAliveInterval 15\n\
         ServerAliveCountMax 4\n\
         ConnectTimeout {connect_timeout}\n\
         LogLevel ERROR\n\
         ForwardAgent no\n\
         SendEnv -*\n"
    )
}

/// Writes a path so that `ssh_config` takes it as it is: one word, no `%` token.
fn config_path(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

/// Finds a short folder that is ours alone for the shared connection's socket.
fn socket_path(world: &World, uid: u32, target: &SshTarget) -> Result<PathBuf, TransportError> {
    let mut digest = Digester::new("ssh socket");
    for part in [&target.alias, &target.address, &target.user, &target.host_public_key] {
        digest.field(part.as_bytes());
    }
    digest.field(target.identity.as_os_str().as_encoded_bytes()).field(&target.port.to_le_bytes());
    let name = digest.finish().short().to_owned();
    let own = |folder: PathBuf| -> std::io::Result<PathBuf> {
        fs::create_dir_private(&folder)?;
        let found = fs::metadata(&folder)?;
        if found.is_dir() && found.uid() == uid && found.mode().trailing_zeros() >= 6 {
            Ok(folder.join(&name))
        } else {
            Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it is not a folder of ours alone"))
        }
    };
    let short = |path: &PathBuf| path.as_os_str().len() <= SOCKET_PATH_MAX;
    if let Some(path) =
        world.var("XDG_RUNTIME_DIR").and_then(|dir| own(Path::new(dir).join("lane")).ok()).filter(short)
    {
        return Ok(path);
    }
    let fallback = PathBuf::from(format!("/tmp/lane-{uid}"));
    own(fallback.clone()).map_err(|source| local(format!("cannot use {}", fallback.display()), source))
}

fn join_nul(paths: &[String]) -> Vec<u8> {
    paths.iter().flat_map(|path| path.bytes().chain([0])).collect()
}

/// Reads the number that follows the first of these titles: `Total bytes sent: 1,234`.
fn number_after(text: &str, titles: &[&str]) -> u64 {
    text.lines()
        .find_map(|line| titles.iter().find_map(|title| line.trim().strip_prefix(title)))
        .map(|rest| {
            rest.trim().chars().filter(|&c| c != ',').take_while(char::is_ascii_digit).collect::<String>()
        })
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn local(what: impl Into<String>, source: std::io::Error) -> TransportError {
    TransportError::Local { what: what.into(), source }
}
