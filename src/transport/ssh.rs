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
    world: World,
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
        Ok(Self { world: world.clone(), target, folder: folder.to_owned(), socket, first: Mutex::new(()) })
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
        let mut command = self.world.command("ssh");
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
        let mut command = self.world.command("ssh");
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

        let mut command = self.world.command("rsync");
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
        // rsync takes a name that starts with `#` or `;` for a comment and skips it without a word.
        let names = join_nul(request.files.iter().map(|file| format!("./{file}")));
        let work = async {
            let mut child = command.spawn().map_err(|source| local("cannot run rsync", source))?;
            let mut stdout = Vec::new();
            let mut sink = |chunk: &[u8]| stdout.extend_from_slice(chunk);
            let stderr = talk(&mut child, &names, &mut sink).await?;
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
        let mut command = self.world.command("ssh");
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
    let text = path.display().to_string().replace('%', "%%").replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
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

fn join_nul(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend_from_slice(path.as_ref().as_bytes());
        bytes.push(0);
    }
    bytes
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::transport::LaneKeys;
    use crate::world::SystemClock;

    /// A real sshd of our own on a loopback port, with its own keys and a `sudo` that only runs what it is given.
    struct Sshd {
        dir: tempfile::TempDir,
        keys: LaneKeys,
        port: u16,
        user: String,
        process: std::process::Child,
    }

    impl Drop for Sshd {
        fn drop(&mut self) {
            // A test that failed has closed nothing.
            for socket in fs::list(&self.dir.path().join("run/lane")).unwrap_or_default() {
                let socket = self.dir.path().join("run/lane").join(socket);
                let mut command = std::process::Command::new("ssh");
                drop(command.args(["-F", "none", "-O", "exit", "-S"]).arg(socket).arg("host").output());
            }
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write_atomic(path, text.as_bytes(), Mode::Private).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    impl Sshd {
        /// Starts one; `options` stand before the key in `authorized_keys`.
        fn start(options: &str) -> Self {
            let program = Path::new("/usr/sbin/sshd");
            assert!(program.exists(), "/usr/sbin/sshd is needed: apt-get install openssh-server");
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path();
            let keys = LaneKeys::load_or_create(&path.join("keys"), "lane-test-00000000").unwrap();
            fs::create_dir_all(&path.join("bin")).unwrap();
            write(&path.join("bin/sudo"), "#!/bin/sh\n[ \"$1\" = -n ] && shift\nexec \"$@\"\n", 0o755);
            write(&path.join("authorized_keys"), &format!("{options} {}\n", keys.user_public), 0o600);
            let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
            let user = String::from_utf8(user).unwrap().trim().to_owned();
            for attempt in 0.. {
                let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                let config = format!(
                    "ListenAddress 127.0.0.1:{port}\nHostKey {0}/keys/host_ed25519\nAuthorizedKeysFile {0}/authorized_keys\n\
                     PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                     PermitRootLogin yes\nMaxStartups 100\nSetEnv LANE_HOST_ROOT={0}/host PATH={0}/bin:/usr/bin:/bin\n",
                    path.display()
                );
                write(&path.join("sshd_config"), &config, 0o600);
                // sshd's own folder for its separated half; only root can make it and only root needs it.
                drop(fs::create_dir_all(Path::new("/run/sshd")));
                let mut process = std::process::Command::new(program)
                    .arg("-D")
                    .arg("-e")
                    .arg("-f")
                    .arg(path.join("sshd_config"))
                    .stderr(std::fs::File::create(path.join("sshd.log")).unwrap())
                    .spawn()
                    .unwrap();
                for _ in 0..500 {
                    if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                        return Self { dir, keys, port, user, process };
                    }
                    if process.try_wait().unwrap().is_some() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                drop(process.kill());
                drop(process.wait());
                let log = String::from_utf8_lossy(&fs::read(&path.join("sshd.log")).unwrap()).into_owned();
                assert!(attempt < 3, "sshd does not start: {log}");
            }
            unreachable!()
        }

        fn target(&self) -> SshTarget {
            SshTarget {
                alias: "lane-test-00000000".to_owned(),
                address: "127.0.0.1".to_owned(),
                port: self.port,
                user: self.user.clone(),
                identity: self.keys.identity.clone(),
                host_public_key: self.keys.host.public.clone(),
                connect_timeout: Duration::from_secs(5),
            }
        }

        fn client(&self, target: SshTarget) -> OpenSsh {
            let runtime = self.dir.path().join("run");
            fs::create_dir_private(&runtime).unwrap();
            let env = BTreeMap::from([("XDG_RUNTIME_DIR".to_owned(), runtime.display().to_string())]);
            let world = World::fixed(Arc::new(SystemClock), env, "/".into());
            // A folder with what a shell would split.
            OpenSsh::new(&world, target, &self.dir.path().join("a \"lane's\" folder").join("%h")).unwrap()
        }

        fn log(&self) -> String {
            String::from_utf8_lossy(&fs::read(&self.dir.path().join("sshd.log")).unwrap()).into_owned()
        }
    }

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    const HOSTILE: [&str; 12] = [
        "with space",
        "-rf",
        "it's",
        "\"double\"",
        "$(touch /tmp/lane-was-here)",
        "`id`",
        "new\nline",
        "tab\there",
        "ünï/cødé ☃",
        "a;b&c|d>e<f",
        "back\\slash*?[x]{y,z}~!#%",
        "#comment",
    ];

    #[tokio::test]
    async fn scripts_get_their_words_and_give_their_code() {
        let sshd = Sshd::start("");
        let ssh = sshd.client(sshd.target());
        let began = Instant::now();
        let mut script =
            Script::root("echo", "cat; printf '[%s]' \"$@\"; echo oops >&2; exit 3").stdin("in\n");
        script.args = HOSTILE.iter().map(|word| (*word).to_owned()).chain([String::new()]).collect();
        let output = ssh.exec(script).await.unwrap();
        // The shared connection that stays behind holds none of our pipes.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let wanted = HOSTILE.iter().fold(String::new(), |text, word| text + "[" + word + "]");
        assert_eq!(output.text(), format!("in\n{wanted}[]"));
        assert_eq!((output.code, output.stderr.as_slice()), (3, b"oops\n".as_slice()));
        ssh.verify_login().await.unwrap();
        assert_eq!(sshd.log().matches("Accepted publickey").count(), 1, "{}", sshd.log());
        ssh.close().await;
        assert!(!ssh.socket.exists());
    }

    #[tokio::test]
    async fn a_scripts_255_is_not_a_lost_connection() {
        let sshd = Sshd::start("");
        let ssh = sshd.client(sshd.target());
        assert_eq!(ssh.exec(Script::user("x", "exit 255")).await.unwrap().code, 255);
        assert_eq!(ssh.exec(Script::user("x", "kill -9 $$")).await.unwrap().code, 137);
        // The session's own shell dies: nothing is known of the script.
        let error = ssh.exec(Script::user("x", "kill -9 $PPID")).await.unwrap_err();
        assert!(error.is_connection() || matches!(error, TransportError::Refused { .. }), "{error}");
        ssh.close().await;
    }

    #[tokio::test]
    async fn first_connections_at_once_share_one() {
        let sshd = Sshd::start("");
        let ssh = Arc::new(sshd.client(sshd.target()));
        let mut all = tokio::task::JoinSet::new();
        for n in 0..24 {
            let ssh = Arc::clone(&ssh);
            all.spawn(async move {
                let script = Script::user("n", "sleep 0.3; echo \"$1\"").arg(n.to_string());
                assert_eq!(ssh.exec(script).await.unwrap().text(), format!("{n}\n"));
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
        // sshd's default of ten sessions per connection is passed over new connections.
        assert!(sshd.log().matches("Accepted publickey").count() <= 15, "{}", sshd.log());
        ssh.close().await;
    }

    #[tokio::test]
    async fn output_comes_while_the_script_runs() {
        let sshd = Sshd::start("");
        let ssh = sshd.client(sshd.target());
        ssh.exec(Script::user("warm", ":")).await.unwrap();
        let began = Instant::now();
        let mut first = None;
        let mut bytes = 0;
        let script = Script::user("s", "echo a; sleep 3; head -c 300000 /dev/zero; exit 7");
        let code = ssh
            .stream(script, &mut |chunk| {
                first.get_or_insert_with(|| began.elapsed());
                bytes += chunk.len();
            })
            .await
            .unwrap();
        assert_eq!((code, bytes), (7, 300_002));
        // Busy machines connect slowly; what counts is that it came before the script ended.
        let (first, whole) = (first.unwrap(), began.elapsed());
        assert!(whole.checked_sub(first).unwrap() > Duration::from_secs(2), "{first:?} of {whole:?}");
        let slow = Script::user("slow", "sleep 30").timeout(Duration::from_millis(300));
        assert!(matches!(ssh.exec(slow).await, Err(TransportError::Timeout { .. })));
        ssh.close().await;
    }

    #[tokio::test]
    async fn big_input_and_output_do_not_block_each_other() {
        let sshd = Sshd::start("");
        let ssh = sshd.client(sshd.target());
        let input = vec![b'x'; 3_000_000];
        let output = ssh.exec(Script::user("cat", "tee /dev/stderr").stdin(input.clone())).await.unwrap();
        assert!(output.stdout == input && output.stderr == input);
        // A script that reads nothing is no error.
        assert_eq!(ssh.exec(Script::user("none", "exit 0").stdin(input)).await.unwrap().code, 0);
        ssh.close().await;
    }

    #[tokio::test]
    async fn a_forced_command_is_not_a_login() {
        let sshd = Sshd::start("command=\"echo 'Please login as the user ubuntu'; exit 142\"");
        let ssh = sshd.client(sshd.target());
        let error = ssh.verify_login().await.unwrap_err();
        assert!(matches!(error, TransportError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("Please login as the user ubuntu"), "{error}");
        ssh.close().await;
    }

    #[tokio::test]
    async fn another_host_key_a_refused_key_and_a_closed_port_are_told_apart() {
        let sshd = Sshd::start("");
        let other = LaneKeys::load_or_create(&sshd.dir.path().join("other"), "other").unwrap();
        let ssh = sshd.client(SshTarget { host_public_key: other.host.public, ..sshd.target() });
        let error = ssh.exec(Script::user("x", ":")).await.unwrap_err();
        assert!(matches!(error, TransportError::HostKey { .. }), "{error:?}");

        let ssh = sshd.client(SshTarget { identity: other.identity, ..sshd.target() });
        let error = ssh.exec(Script::user("x", ":")).await.unwrap_err();
        assert!(matches!(error, TransportError::Refused { .. }), "{error:?}");

        let ssh = sshd.client(SshTarget { port: 1, ..sshd.target() });
        let error = ssh.exec(Script::user("x", ":")).await.unwrap_err();
        assert!(error.is_connection() && error.to_string().contains("127.0.0.1:1"), "{error:?}");
    }

    #[tokio::test]
    async fn a_lost_connection_says_so_and_the_next_call_makes_a_new_one() {
        let sshd = Sshd::start("");
        let ssh = sshd.client(sshd.target());
        // $PPID of the wrapper's parent shell is the session's sshd process.
        let output = ssh.exec(Script::user("pid", "echo $(cut -d' ' -f4 /proc/$PPID/stat)")).await.unwrap();
        let session: u32 = output.text().trim().parse().unwrap();
        let kill = Script::user("kill", "kill -9 \"$1\"; sleep 5").arg(session.to_string());
        let error = ssh.exec(kill).await.unwrap_err();
        assert!(error.is_connection(), "{error:?}");
        assert_eq!(ssh.exec(Script::user("x", "echo back")).await.unwrap().text(), "back\n");
        ssh.close().await;
    }

    #[tokio::test]
    async fn a_sync_brings_exactly_what_is_named_whatever_its_name() {
        let sshd = Sshd::start("");
        let ssh = sshd.client(sshd.target());
        let from = sshd.dir.path().join("from here");
        let to = sshd.dir.path().join("to: it's $(id)/deep/there");
        for name in HOSTILE {
            let path = from.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write(&path, name, 0o644);
        }
        fs::create_dir_all(&from.join("d/e")).unwrap();
        write(&from.join("d/e/run.sh"), "#!/bin/sh\n", 0o755);
        write(&from.join("unnamed"), "", 0o644);
        std::os::unix::fs::symlink("../nowhere", from.join("d/link")).unwrap();
        let mut request = SyncRequest {
            name: "mvm".to_owned(),
            from: from.clone(),
            to: to.display().to_string(),
            files: HOSTILE.iter().copied().chain(["d/e/run.sh", "d/link"]).map(str::to_owned).collect(),
            remove: vec![],
            timeout: Duration::from_secs(30),
        };
        let stats = ssh.sync(&request).await.unwrap();
        assert_eq!((stats.transferred, stats.deleted), (13, 0));
        assert!(stats.bytes > 0);
        for name in HOSTILE {
            assert_eq!(fs::read(&to.join(name)).unwrap(), name.as_bytes(), "{name:?}");
        }
        assert_eq!(fs::metadata(&to.join("d/e/run.sh")).unwrap().mode() & 0o777, 0o755);
        assert!(fs::metadata(&to.join("d/link")).unwrap().is_symlink());
        assert!(!to.join("unnamed").exists());
        assert!(!Path::new("/tmp/lane-was-here").exists());

        // Nothing changed: nothing goes over, and nothing looks newer.
        let before = fs::metadata(&to.join("-rf")).unwrap().mtime_nsec();
        assert_eq!(ssh.sync(&request).await.unwrap().transferred, 0);
        assert_eq!(fs::metadata(&to.join("-rf")).unwrap().mtime_nsec(), before);

        // Same size, older time: content decides, and what came over is newer than what was built before.
        write(&to.join("built"), "", 0o644);
        write(&from.join("-rf"), "-fr", 0o644);
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        std::fs::File::open(from.join("-rf")).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(ssh.sync(&request).await.unwrap().transferred, 1);
        assert_eq!(fs::read(&to.join("-rf")).unwrap(), b"-fr");
        let at = |name: &str| fs::metadata(&to.join(name)).unwrap().modified().unwrap();
        assert!(at("-rf") >= at("built"));

        // What an earlier sync brought goes; what the host made stays.
        write(&to.join("d/e/made-there"), "", 0o644);
        request.remove = HOSTILE
            .iter()
            .copied()
            .chain(["d/link", "d/e/run.sh", "gone/before"])
            .map(str::to_owned)
            .collect();
        request.files = vec![];
        assert_eq!(ssh.sync(&request).await.unwrap().deleted, 14);
        assert!(to.join("d/e/made-there").exists() && to.join("built").exists());
        assert!(!to.join("ünï").exists(), "an empty folder goes with its last file");
        ssh.close().await;
    }

    #[tokio::test]
    async fn a_sync_replaces_a_folder_by_a_file_and_deletes_nothing_outside() {
        let sshd = Sshd::start("");
        let ssh = sshd.client(sshd.target());
        let [from, to, outside] = ["from", "to", "outside"].map(|name| sshd.dir.path().join(name));
        for dir in [from.join("a"), to.join("l"), outside.clone()] {
            fs::create_dir_all(&dir).unwrap();
        }
        write(&from.join("a/b"), "1", 0o644);
        let mut request = SyncRequest {
            name: "s".to_owned(),
            from: from.clone(),
            to: to.display().to_string(),
            files: strings(&["a/b"]),
            remove: vec![],
            timeout: Duration::from_secs(30),
        };
        ssh.sync(&request).await.unwrap();
        fs::remove_dir_all(&from.join("a")).unwrap();
        write(&from.join("a"), "2", 0o644);
        (request.files, request.remove) = (strings(&["a"]), strings(&["a/b"]));
        let stats = ssh.sync(&request).await.unwrap();
        assert_eq!((stats.transferred, stats.deleted), (1, 1));
        assert_eq!(fs::read(&to.join("a")).unwrap(), b"2");

        write(&outside.join("precious"), "", 0o644);
        fs::remove_dir_all(&to.join("l")).unwrap();
        std::os::unix::fs::symlink(&outside, to.join("l")).unwrap();
        request.remove = strings(&["l/precious"]);
        assert_eq!(ssh.sync(&request).await.unwrap().deleted, 0);
        for bad in ["/etc/lane-none", "../outside/precious", "l/../../outside/precious"] {
            request.remove = strings(&[bad]);
            let error = ssh.sync(&request).await.unwrap_err().to_string();
            assert!(error.contains("refusing"), "{error}");
        }
        assert!(outside.join("precious").exists());

        request.remove = vec![];
        request.files = strings(&["missing"]);
        let error = ssh.sync(&request).await.unwrap_err();
        assert!(matches!(error, TransportError::Script { script: "rsync", .. }), "{error:?}");
        assert!(error.to_string().contains("missing"), "{error}");
        ssh.close().await;
    }

    #[test]
    fn a_socket_folder_of_someone_else_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let loose = dir.path().join("lane");
        fs::create_dir_all(&loose).unwrap();
        std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o755)).unwrap();
        let env = BTreeMap::from([("XDG_RUNTIME_DIR".to_owned(), dir.path().display().to_string())]);
        let world = World::fixed(Arc::new(SystemClock), env, "/".into());
        let target = SshTarget {
            alias: "lane-a-00000000".to_owned(),
            address: "::1".to_owned(),
            port: 22,
            user: "mvm".to_owned(),
            identity: "/k".into(),
            host_public_key: "ssh-ed25519 AAAA".to_owned(),
            connect_timeout: Duration::from_secs(1),
        };
        let uid = fs::metadata(dir.path()).unwrap().uid();
        let path = socket_path(&world, uid, &target).unwrap();
        assert!(path.starts_with(format!("/tmp/lane-{uid}")), "{path:?}");
        std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(socket_path(&world, uid, &target).unwrap().starts_with(&loose));
    }

    #[test]
    fn rsyncs_numbers_are_read_in_both_forms() {
        let new = "Number of regular files transferred: 1,234\nTotal bytes sent: 5,678,901\n";
        let old = "Number of files transferred: 3\nTotal bytes sent: 42 B\n";
        let titles = ["Number of regular files transferred:", "Number of files transferred:"];
        assert_eq!(
            (number_after(new, &titles), number_after(new, &["Total bytes sent:"])),
            (1234, 5_678_901)
        );
        assert_eq!((number_after(old, &titles), number_after(old, &["Total bytes sent:"])), (3, 42));
    }

    #[test]
    fn the_mark_is_found_even_when_something_writes_after_it() {
        let text = b"warn\n\nlane-exit:M:255\nlate".to_vec();
        assert_eq!(take_exit(text, "M"), Ok((255, b"warn\nlate".to_vec())));
        assert!(take_exit(b"\nlane-exit:N:0\n".to_vec(), "M").is_err());
        assert!(take_exit(b"\nlane-exit:M:1".to_vec(), "M").is_err());
    }
}
