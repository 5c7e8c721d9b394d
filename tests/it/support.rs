//! A throwaway folder with a spec, its sources and its state, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Returns this package's folder.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Tells whether this machine can boot hosts; says why not.
pub(crate) fn can_boot_hosts() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let tools = ["systemd-nspawn", "mmdebstrap", "rsync", "nft", "ip", "ssh"];
    let missing: Vec<&str> = tools
        .into_iter()
        .filter(|tool| {
            !Command::new("sh")
                .args(["-c", &format!("command -v {tool}")])
                .output()
                .is_ok_and(|o| o.status.success())
        })
        .collect();
    if root && missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI has to run the real-host tests: root {root}, missing {missing:?}"
    );
    println!("left out: real hosts need root (have it: {root}) and {missing:?}");
    false
}

/// What the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Insists on an exit code and shows everything otherwise.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Reads standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// One lane in its own folder; whatever happens in a test, its host is destroyed at the end.
#[derive(Debug)]
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    pub(crate) lane: String,
    pub(crate) spec: PathBuf,
    env: Vec<(String, String)>,
    hostless: bool,
}

impl Lab {
    /// Writes a spec text as `<name>.yaml`; the text's `NAME` is replaced.
    pub(crate) fn new(lane: &str, spec_text: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lane-test-").tempdir().unwrap();
        let spec = folder.path().join(format!("{lane}.yaml"));
        std::fs::write(&spec, spec_text.replace("NAME", lane)).unwrap();
        Self { folder, lane: lane.to_owned(), spec, env: vec![], hostless: false }
    }

    /// Copies `specs/local.yaml` and all that it names, under another lane name.
    pub(crate) fn local(lane: &str) -> Self {
        let text = std::fs::read_to_string(root().join("specs/local.yaml")).unwrap();
        let text = text.replace("name: local", "name: NAME").replace("../", "./");
        let lab = Self::new(lane, &text);
        for part in ["tests/fixtures/mvm", "tests/fixtures/mvmd", "cloud-init"] {
            copy_tree(&root().join(part), &lab.path().join(part));
        }
        lab
    }

    /// Says that no run makes a host here, so none is looked for at the end.
    pub(crate) fn hostless(mut self) -> Self {
        self.hostless = true;
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Sets a variable for every run.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state").join(&self.lane)
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap()
    }

    /// Replaces text in a file; insists that it is there.
    #[track_caller]
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let text = self.read(file);
        assert!(text.contains(from), "{file} holds no {from:?}");
        self.write(file, &text.replacen(from, to, 1));
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lane"));
        command
            .args(args)
            .current_dir(self.path())
            .env("LANE_STATE_DIR", self.path().join("state"))
            .stdin(Stdio::null());
        command.env_remove("LANE_LOG").env("NO_COLOR", "1").envs(self.env.iter().cloned());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&self.command(args).output().unwrap())
    }

    pub(crate) fn spec_arg(&self) -> &str {
        self.spec.to_str().unwrap()
    }

    pub(crate) fn apply(&self) -> Ran {
        self.run(&["apply", self.spec_arg(), "-y"])
    }

    /// Plans and returns the steps that change: id → action.
    #[track_caller]
    pub(crate) fn changes(&self) -> Vec<(String, String)> {
        let plan = self.run(&["plan", self.spec_arg(), "--format", "json"]).exits(0).json();
        plan["steps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|step| step["action"] != "no_op")
            .map(|step| {
                (step["id"].as_str().unwrap().to_owned(), step["action"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    #[track_caller]
    pub(crate) fn changed_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.changes().into_iter().map(|(id, _)| id).collect();
        ids.sort();
        ids
    }

    /// Runs a command line on the host and returns what it printed.
    #[track_caller]
    pub(crate) fn on_host(&self, command: &str) -> String {
        self.run(&["exec", &self.lane, "--", "sh", "-c", command]).exits(0).stdout.trim_end().to_owned()
    }

    pub(crate) fn journal(&self) -> String {
        std::fs::read_to_string(self.state().join("journal.jsonl")).unwrap_or_default()
    }

    /// Starts an apply and kills it with signal 9 as soon as `reached` says so of what it wrote to the journal itself;
    /// `false` if it ended before.
    pub(crate) fn kill_apply_when(&self, reached: impl Fn(&str) -> bool) -> bool {
        let before = self.journal().len();
        let mut child = self.spawn_apply();
        let deadline = Instant::now() + Duration::from_mins(4);
        loop {
            if reached(self.journal().get(before..).unwrap_or_default()) {
                child.kill().unwrap();
                child.wait().unwrap();
                return true;
            }
            if let Some(status) = child.try_wait().unwrap() {
                println!("apply ended with {status} before the point was reached");
                return false;
            }
            assert!(Instant::now() < deadline, "the point was never reached; journal:\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn spawn_apply(&self) -> Child {
        let log =
            std::fs::File::options().create(true).append(true).open(self.path().join("apply.log")).unwrap();
        self.command(&["apply", self.spec_arg(), "-y"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Returns the last 8 characters of the lane's lineage.
    pub(crate) fn lineage8(&self) -> String {
        let record = self.run(&["show", &self.lane, "--format", "json"]).exits(0).json();
        let lineage = record["lineage"].as_str().unwrap();
        lineage[lineage.len() - 8..].to_owned()
    }

    /// Lists everything on this machine that belongs to a lineage: processes, mounts, veths, tables, folders.
    pub(crate) fn traces(lineage8: &str) -> Vec<String> {
        let listing = Command::new("sh")
            .arg("-c")
            .arg(
                "find /var/lib/lane/nspawn -mindepth 1 -maxdepth 1 -name \"*-$1*\" 2>/dev/null | sed 's/^/folder /'
                 awk -v id=\"-$1/\" 'index($2, id) {print \"mount \" $2}' /proc/mounts
                 ip -brief link | awk -v id=\"$1\" 'index($1, id) {print \"link \" $1}'
                 nft list tables 2>/dev/null | awk -v id=\"lane_$1\" '$3 == id {print \"table \" $3}'
                 for file in /proc/[0-9]*/cmdline; do
                   if tr '\\0' ' ' <\"$file\" 2>/dev/null | grep -q -- \"^systemd-nspawn .*--machine=ln-$1\"; then echo \"process $file\"; fi
                 done",
            )
            .arg("traces")
            .arg(lineage8)
            .output()
            .unwrap();
        String::from_utf8_lossy(&listing.stdout).lines().map(str::to_owned).collect()
    }

    /// Counts the containers of a lineage.
    pub(crate) fn containers(lineage8: &str) -> usize {
        Self::traces(lineage8).iter().filter(|trace| trace.starts_with("process")).count()
    }

    /// Destroys the host and insists that nothing is left.
    #[track_caller]
    pub(crate) fn destroy(&self) {
        let lineage8 = self.lineage8();
        self.run(&["destroy", &self.lane, "-y"]).exits(0);
        assert_eq!(Self::traces(&lineage8), Vec::<String>::new());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.hostless {
            return;
        }
        if self.state().join("state.json").exists() || self.state().join("journal.jsonl").exists() {
            let ran = self.run(&["destroy", self.spec_arg(), "-y"]);
            if ran.code != 0 {
                println!("cleaning up lane {} failed: {}{}", self.lane, ran.stdout, ran.stderr);
            }
            if std::thread::panicking() {
                println!(
                    "apply.log:\n{}",
                    std::fs::read_to_string(self.path().join("apply.log")).unwrap_or_default()
                );
            }
        }
    }
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg("--")
        .arg(from)
        .arg(to.parent().map_or(to, |parent| {
            std::fs::create_dir_all(parent).unwrap();
            parent
        }))
        .status()
        .unwrap();
    assert!(status.success(), "copying {} failed", from.display());
}

/// A small lane that boots fast and builds in no time: a shell build, a Python web server, probes and a smoke command.
pub(crate) const SMALL: &str = r#"version: 1
name: NAME
provider:
  name: nspawn
  packages: [cargo, rustc, gcc, libc6-dev, pkg-config, python3, curl]
kvm: none
lease: {ttl: 1h}
access: {user: mvm}
sources:
  web: {path: web, to: /home/mvm/web}
build:
  web:
    in: web
    run: bash build.sh
    install: {out/web: /usr/local/bin/web}
secrets:
  token: {generate: hex, bytes: 16}
files:
  /etc/web.conf: {template: web/web.conf.j2, mode: "0644", owner: root}
services:
  web: {unit: web/web.service, needs: [/etc/web.conf], env: {GREETING: "it's $HOME \"quoted\" %n"}}
probes:
  seccomp: {kind: seccomp}
  web: {kind: http, url: "http://127.0.0.1:8000/", expect: 200, contains: hello}
smoke: {in: web, run: "test -s /etc/web.conf"}
tests: {in: web, run: bash test.sh, junit: junit.xml}
"#;

/// Makes a [`SMALL`] lane with its sources; the build counts its runs in `~/builds` on the host and takes `seconds`.
pub(crate) fn small(lane: &str, build_seconds: u32) -> Lab {
    let lab = Lab::new(lane, SMALL);
    lab.write(
        "web/build.sh",
        &format!(
            "set -eu\necho run >>~/builds\nfor i in $(seq 1 {}); do echo \"tick $i\"; sleep 0.1; done\nmkdir -p out\ncp web.py out/web\nchmod +x out/web\n",
            build_seconds * 10
        ),
    );
    lab.write(
        "web/web.py",
        "#!/usr/bin/python3\nimport http.server\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200)\n        self.end_headers()\n        self.wfile.write(b'hello')\n    def log_message(self, *a): pass\nhttp.server.ThreadingHTTPServer(('127.0.0.1', 8000), H).serve_forever()\n",
    );
    lab.write(
        "web/web.service",
        "[Unit]\nDescription=Web\n[Service]\nExecStart=/usr/local/bin/web\nRestart=on-failure\n[Install]\nWantedBy=multi-user.target\n",
    );
    lab.write("web/web.conf.j2", "lane={{ lane.name }}\ntoken={{ secrets.token }}\n");
    lab.write(
        "web/test.sh",
        "cat >junit.xml <<'X'\n<testsuite name=\"web\" tests=\"2\" failures=\"0\" skipped=\"1\"><testcase name=\"a\"/><testcase name=\"b\"><skipped/></testcase></testsuite>\nX\necho tested\n",
    );
    lab.write("web/.gitignore", "/out\n");
    lab
}
