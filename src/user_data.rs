//! Joins lane's own cloud-init part and the user's file as MIME multipart (RFC 2046). Reads no file.
//!
//! What stops the bill and what proves the host's identity comes first, so that nothing in the user's file can be in
//! its way.

use std::collections::BTreeMap;

use base64::Engine as _;
use jiff::Timestamp;
use serde::Serialize;

use crate::plan::Digester;

/// Where the host keeps the key that `lane` made for it: a cloud's guest agent may replace `ssh_host_*`.
const HOST_KEY: &str = "/etc/ssh/lane_host_ed25519_key";

/// Read before the image's own settings, and the first value counts in sshd; one shared connection carries many sessions.
const SSHD: &str = "HostKey /etc/ssh/lane_host_ed25519_key\n\
                    MaxSessions 128\n\
                    MaxStartups 64:30:128\n\
                    ClientAliveInterval 30\n\
                    ClientAliveCountMax 10\n";

/// How the user's part joins lane's: lists grow, maps merge, and where both say something lane's word stays.
const MERGE: &str = "Merge-Type: list(append)+dict(recurse_array)+str()\n";

/// The lease, as the first thing that runs at every boot: a cloud-init that fails later on has it too.
///
/// Its units wait for nothing, so that a reboot that hangs (for a network, say) ends with the lease all the same.
pub const LEASE_SCRIPT: &str = include_str!("user_data/lease.sh");

/// What the host does by itself when its lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerAction {
    /// Powers itself off.
    PowerOff,
    /// Nothing: where a powered-off host is billed on, or loses its deadline by it.
    None,
}

/// All that goes into a host's user-data.
#[derive(Debug)]
pub struct UserDataInput<'a> {
    /// The host's label, for people who look at the host.
    pub label: &'a str,
    /// The lane's lineage, in full.
    pub lineage: &'a str,
    /// The lane's name.
    pub lane: &'a str,
    /// Login user.
    pub user: &'a str,
    /// The lane's own public key.
    pub lane_public_key: &'a str,
    /// More keys, in `authorized_keys` form.
    pub authorized_keys: &'a [String],
    /// The host's private key, in OpenSSH's form.
    pub host_private_key: &'a str,
    /// Its public half.
    pub host_public_key: &'a str,
    /// When the lease ends.
    pub expires_at: Timestamp,
    /// What the host does then.
    pub timer_action: TimerAction,
    /// The user's file: name and text.
    pub user_file: Option<(&'a str, &'a str)>,
}

/// User-data, as it is sent and as it may be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData {
    /// What the cloud gets; holds the host's private key.
    pub full: String,
    /// The same for people, diffs and state: keys and moments are placeholders, so that equal specs look equal.
    pub shown: String,
}

impl std::fmt::Debug for UserData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserData").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// Why no user-data can be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserDataError {
    /// cloud-init would not know what it is.
    #[error("{file}: cloud-init does not know what it is by its first line `{line}`; it knows {known}")]
    UnknownKind {
        /// The file's name.
        file: String,
        /// Its first line.
        line: String,
        /// What is allowed.
        known: String,
    },
    /// A provider takes no more.
    #[error(
        "the user-data has {size} bytes, of which {own} are lane's own; {provider} takes at most {limit}"
    )]
    TooLarge {
        /// Its size.
        size: usize,
        /// The size without the user's file.
        own: usize,
        /// The provider's name.
        provider: String,
        /// Its limit.
        limit: usize,
    },
    /// lane's own part could not be written.
    #[error("cannot write lane's part of the user-data: {message}")]
    Serialize {
        /// Why.
        message: String,
    },
}

/// First lines that cloud-init knows, each with its MIME type; the longer of two stands first.
const KINDS: [(&str, &str); 10] = [
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("#cloud-config", "text/cloud-config"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include-once", "text/x-include-once-url"),
    ("#include", "text/x-include-url"),
    ("#part-handler", "text/part-handler"),
    ("## template: jinja", "text/jinja2"),
    ("##template: jinja", "text/jinja2"),
    ("#!", "text/x-shellscript"),
];

/// Renders the user-data; the same input gives the same bytes.
pub fn render(input: &UserDataInput<'_>) -> Result<UserData, UserDataError> {
    let expiry = input.expires_at.as_second().to_string();
    let calendar = calendar(input.expires_at);
    let full = own_part(
        input,
        &Variable {
            lane_key: input.lane_public_key,
            host_private: input.host_private_key,
            host_public: input.host_public_key,
            expiry: &expiry,
            calendar: &calendar,
        },
    )?;
    let shown = own_part(
        input,
        &Variable {
            lane_key: "(the lane's public key)",
            host_private: "(the host's private key)\n",
            host_public: "(the host's public key)",
            expiry: "(end of the lease)",
            calendar: "(end of the lease)",
        },
    )?;
    let user = input.user_file.map(|(name, text)| Ok((name, kind(name, text)?, text))).transpose()?;
    Ok(UserData { full: multipart(&full, user, true), shown: multipart(&shown, user, false) })
}

/// Writes a moment for systemd's `OnCalendar=`, in UTC: it means the same after a reboot and in any time zone.
pub fn calendar(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Checks the size against what a provider takes.
pub fn check_size(
    data: &UserData,
    user_file: Option<&str>,
    provider: &str,
    limit: usize,
) -> Result<(), UserDataError> {
    let size = data.full.len();
    if size <= limit {
        return Ok(());
    }
    let own = size.saturating_sub(user_file.map_or(0, str::len));
    Err(UserDataError::TooLarge { size, own, provider: provider.to_owned(), limit })
}

/// What differs from host to host of one and the same spec.
struct Variable<'a> {
    lane_key: &'a str,
    host_private: &'a str,
    host_public: &'a str,
    expiry: &'a str,
    calendar: &'a str,
}

#[derive(Serialize)]
struct CloudConfig<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bootcmd: Vec<[&'a str; 6]>,
    disable_root: bool,
    ssh_pwauth: bool,
    manage_etc_hosts: &'a str,
    ssh_genkeytypes: [&'a str; 1],
    write_files: Vec<WriteFile<'a>>,
    users: [User<'a>; 1],
}

#[derive(Serialize)]
struct WriteFile<'a> {
    path: &'a str,
    permissions: &'a str,
    content: String,
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    gecos: String,
    shell: &'a str,
    sudo: &'a str,
    groups: [&'a str; 1],
    lock_passwd: bool,
    ssh_authorized_keys: Vec<&'a str>,
}

fn own_part(input: &UserDataInput<'_>, variable: &Variable<'_>) -> Result<String, UserDataError> {
    let failed = |message: String| UserDataError::Serialize { message };
    let marker: BTreeMap<&str, &str> = [("lineage", input.lineage), ("lane", input.lane)].into();
    let marker = serde_json::to_string(&marker).map_err(|error| failed(error.to_string()))?;
    let file = |path, permissions, content| WriteFile { path, permissions, content };
    let config = CloudConfig {
        bootcmd: match input.timer_action {
            TimerAction::PowerOff => {
                vec![["sh", "-c", LEASE_SCRIPT, "lane-lease", variable.expiry, variable.calendar]]
            }
            TimerAction::None => vec![],
        },
        disable_root: true,
        ssh_pwauth: false,
        // Without its own name sudo asks the network for it, at every call.
        manage_etc_hosts: "localhost",
        // Nobody looks at the image's own host keys; the slow ones need not be made.
        ssh_genkeytypes: ["ed25519"],
        // Written before sshd starts: cloud-init's network stage is ordered before it.
        write_files: vec![
            file(HOST_KEY, "0600", variable.host_private.to_owned()),
            file(
                "/etc/ssh/lane_host_ed25519_key.pub",
                "0644",
                format!("{}\n", variable.host_public.trim_end()),
            ),
            file("/etc/ssh/sshd_config.d/00-lane.conf", "0644", SSHD.to_owned()),
            file("/var/lib/lane/host.json", "0644", format!("{marker}\n")),
        ],
        users: [User {
            name: input.user,
            gecos: format!("lane {}", input.label),
            shell: "/bin/bash",
            sudo: "ALL=(ALL) NOPASSWD:ALL",
            // Made where it is missing; on a host with KVM it owns /dev/kvm.
            groups: ["kvm"],
            lock_passwd: true,
            ssh_authorized_keys: std::iter::once(variable.lane_key)
                .chain(input.authorized_keys.iter().map(String::as_str))
                .collect(),
        }],
    };
    let yaml = serde_yaml::to_string(&config).map_err(|error| failed(error.to_string()))?;
    Ok(format!("#cloud-config\n{yaml}"))
}

/// Tells by its first line what cloud-init takes a file for.
fn kind(name: &str, text: &str) -> Result<&'static str, UserDataError> {
    let line = text.lines().next().unwrap_or("");
    KINDS.iter().find(|(start, _)| line.to_lowercase().starts_with(start)).map(|&(_, kind)| kind).ok_or_else(
        || {
            let known: Vec<String> = KINDS.iter().map(|(start, _)| format!("`{start}`")).collect();
            UserDataError::UnknownKind {
                file: name.to_owned(),
                line: line.chars().take(80).collect(),
                known: known.join(", "),
            }
        },
    )
}

fn multipart(own: &str, user: Option<(&str, &'static str, &str)>, encode: bool) -> String {
    let mut digest = Digester::new("user-data boundary");
    digest.field(own.as_bytes()).field(user.map_or("", |(_, _, text)| text).as_bytes());
    // Half a digest: a text cannot hold the digest of itself.
    let boundary =
        if encode { format!("lane-{}", &digest.finish().as_str()[..32]) } else { "lane".to_owned() };
    let mut out = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n");
    let mut part = |name: &str, kind: &str, merge: &str, text: &str| {
        // cloud-init reads anything else than ASCII wrongly when it is not encoded.
        let plain = text.is_ascii() || !encode;
        let encoding = if plain { "7bit" } else { "base64" };
        out.extend(["--", &boundary, "\nContent-Type: ", kind, "; charset=\"utf-8\"\nMIME-Version: 1.0\n"]);
        out.extend(["Content-Transfer-Encoding: ", encoding, "\n"]);
        out.extend(["Content-Disposition: attachment; filename=\"", name, "\"\n", merge, "\n"]);
        if plain {
            out += text;
        } else {
            for line in base64::engine::general_purpose::STANDARD.encode(text).as_bytes().chunks(76) {
                out.extend([&String::from_utf8_lossy(line), "\n"]);
            }
        }
        // This end of line belongs to the boundary and not to the text.
        out.push('\n');
    };
    part("lane.cfg", "text/cloud-config", "", own);
    if let Some((name, kind, text)) = user {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' })
            .collect();
        part(&name, kind, MERGE, text);
    }
    out.extend(["--", &boundary, "--\n"]);
    out
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    const PEM: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\nBBBB\n-----END OPENSSH PRIVATE KEY-----\n";
    const USER_CONFIG: &str = "#cloud-config\n# café\npackages: [jq]\nruncmd: [[touch, /user-ran]]\n\
                               bootcmd: [[touch, /user-boot]]\nssh_pwauth: true\n\
                               write_files: [{path: /user-file, content: \"é\\n\"}]\nusers: [{name: mvmd, system: true}]\n";

    fn input<'a>(user_file: Option<(&'a str, &'a str)>, keys: &'a [String]) -> UserDataInput<'a> {
        UserDataInput {
            label: "lane-demo-1a2b3c4d",
            lineage: "01k0000000000000001a2b3c4d",
            lane: "demo",
            user: "mvm",
            lane_public_key: "ssh-ed25519 AAAALANE lane-demo-1a2b3c4d",
            authorized_keys: keys,
            host_private_key: PEM,
            host_public_key: "ssh-ed25519 AAAAHOST lane-demo-1a2b3c4d",
            expires_at: "2026-11-23T19:30:00Z".parse().unwrap(),
            timer_action: TimerAction::PowerOff,
            user_file,
        }
    }

    /// Runs Python over the data; the parts are read and merged by Python's own MIME and YAML readers.
    fn python(script: &str, stdin: &str) -> String {
        use std::io::Write;
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is needed: apt-get install python3 python3-yaml");
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    const PARTS: &str = "import email,json,sys\nm=email.message_from_string(sys.stdin.read())\n\
        print(json.dumps([[p.get_content_type(),p.get_filename(),p['Merge-Type'],p.get_payload(decode=True).decode()] for p in m.get_payload()]))";

    #[test]
    fn the_parts_come_back_as_they_went_in() {
        let data = render(&input(Some(("kvm host.yaml", USER_CONFIG)), &[])).unwrap();
        assert!(data.full.is_ascii());
        let parts: serde_json::Value = serde_json::from_str(&python(PARTS, &data.full)).unwrap();
        assert_eq!(parts[0][0], "text/cloud-config");
        assert!(parts[0][3].as_str().unwrap().starts_with("#cloud-config\nbootcmd:"));
        assert_eq!(parts[1][0], "text/cloud-config");
        assert_eq!(parts[1][1], "kvm_host.yaml");
        assert_eq!(parts[1][2], "list(append)+dict(recurse_array)+str()");
        assert_eq!(parts[1][3], USER_CONFIG);
        assert_eq!(parts.as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_shown_has_no_key_and_no_moment() {
        let key = "ssh-ed25519 AAAAOTHER name@example.com".to_owned();
        let data = render(&input(None, &[key])).unwrap();
        for hidden in ["PRIVATE KEY-----", "AAAALANE", "AAAAHOST", "2026-11-23"] {
            assert!(data.full.contains(hidden), "{hidden}");
            assert!(!data.shown.contains(hidden), "{hidden}");
        }
        assert!(data.shown.contains("AAAAOTHER"), "{}", data.shown);
        assert!(!format!("{data:?}").contains("PRIVATE KEY-----"));
        assert_eq!(
            data,
            render(&input(None, &["ssh-ed25519 AAAAOTHER name@example.com".to_owned()])).unwrap()
        );
    }

    #[test]
    fn no_timer_where_power_off_does_not_stop_the_bill() {
        let data = render(&UserDataInput { timer_action: TimerAction::None, ..input(None, &[]) }).unwrap();
        assert!(!data.full.contains("lane-lease") && !data.full.contains("bootcmd"), "{}", data.full);
    }

    #[test]
    fn the_first_line_decides_what_a_file_is() {
        for (text, wanted) in [
            ("#cloud-config\n", "text/cloud-config"),
            ("#cloud-config-archive\n", "text/cloud-config-archive"),
            ("#!/bin/sh\n", "text/x-shellscript"),
            ("#include-once\nhttps://example.com/a\n", "text/x-include-once-url"),
            ("#include\nhttps://example.com/a\n", "text/x-include-url"),
            ("## template: jinja\n#cloud-config\n", "text/jinja2"),
            ("#cloud-boothook\n", "text/cloud-boothook"),
        ] {
            assert_eq!(kind("f", text), Ok(wanted), "{text}");
        }
        let error = render(&input(Some(("host.yaml", "packages: [jq]\n")), &[])).unwrap_err().to_string();
        assert!(
            error.contains("host.yaml")
                && error.contains("`packages: [jq]`")
                && error.contains("`#cloud-config`")
        );
    }

    #[test]
    fn a_limit_is_named_with_both_sizes() {
        let text = format!("#!/bin/sh\n{}", "x".repeat(20_000));
        let data = render(&input(Some(("big.sh", &text)), &[])).unwrap();
        assert_eq!(check_size(&data, Some(&text), "demo", data.full.len()), Ok(()));
        let error = check_size(&data, Some(&text), "demo", 16_384).unwrap_err().to_string();
        assert!(error.contains(&data.full.len().to_string()) && error.contains("16384"), "{error}");
    }

    /// Finds cloud-init: on the path, or in an unpacked image that `LANE_TEST_ROOTFS` names (which takes root).
    #[expect(clippy::disallowed_methods, reason = "tests are told by a variable where an image is")]
    fn cloud_init() -> Option<PathBuf> {
        if let Ok(root) = std::env::var("LANE_TEST_ROOTFS") {
            return Some(root.into());
        }
        Command::new("cloud-init").arg("--version").output().is_ok().then(|| "/".into())
    }

    #[test]
    fn cloud_init_accepts_and_merges_it() {
        let Some(root) = cloud_init() else {
            println!(
                "left out: no cloud-init; apt-get install cloud-init, or set LANE_TEST_ROOTFS to an unpacked image"
            );
            return;
        };
        let dir = tempfile::tempdir_in(root.join("tmp")).unwrap();
        let run = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            if root != Path::new("/") {
                command = Command::new("chroot");
                command.arg(&root).arg(program);
            }
            let output = command.args(args).output().unwrap();
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            (output.status.success(), said)
        };
        let inside = |path: &Path| format!("/{}", path.strip_prefix(&root).unwrap().display());
        let data = render(&input(Some(("host.yaml", USER_CONFIG)), &[])).unwrap();
        let parts: serde_json::Value = serde_json::from_str(&python(PARTS, &data.full)).unwrap();
        for part in parts.as_array().unwrap() {
            let file = dir.path().join("part.yaml");
            crate::world::fs::write_atomic(
                &file,
                part[3].as_str().unwrap().as_bytes(),
                crate::world::fs::Mode::Public,
            )
            .unwrap();
            let (ok, said) = run("cloud-init", &["schema", "--config-file", &inside(&file)]);
            assert!(ok, "{said}\n{}", part[3]);
        }
        let file = dir.path().join("user-data");
        crate::world::fs::write_atomic(&file, data.full.as_bytes(), crate::world::fs::Mode::Public).unwrap();
        // cloud-init's own reader and mergers, as they run on a host.
        let (ok, merged) = run("python3", &["-c", MERGED, &inside(&file)]);
        assert!(ok, "{merged}");
        let merged: serde_json::Value = serde_json::from_str(&merged).unwrap();
        assert_eq!(merged["bootcmd"][0][2], LEASE_SCRIPT);
        assert_eq!(merged["bootcmd"][0][5], "2026-11-23 19:30:00 UTC");
        assert_eq!(merged["bootcmd"][1][1], "/user-boot");
        assert_eq!(merged["users"][0]["name"], "mvm");
        assert_eq!(merged["users"][1]["name"], "mvmd");
        assert_eq!(merged["write_files"][0]["content"], PEM);
        assert_eq!(merged["write_files"][0]["permissions"], "0600");
        assert_eq!(merged["write_files"][4]["content"], "é\n");
        assert_eq!(merged["runcmd"][0][1], "/user-ran");
        assert_eq!(merged["ssh_pwauth"], false, "lane's word stays");
    }

    const MERGED: &str = r#"
import json, sys
from cloudinit import handlers, helpers, user_data, util
from cloudinit.handlers.cloud_config import CloudConfigPartHandler
class Paths:
    def get_ipath(self, name): return None
processor = user_data.UserDataProcessor(helpers.Paths({}))
message = processor.process(util.load_binary_file(sys.argv[1]))
handler = CloudConfigPartHandler(Paths())
frequency = "always"
handler.handle_part(None, handlers.CONTENT_START, None, None, frequency, None)
for part in message.walk():
    if part.get_content_maintype() != "multipart":
        handler.handle_part(None, part.get_content_type(), part.get_filename(), util.fully_decoded_payload(part), frequency, part)
print(json.dumps(handler.cloud_buf))
"#;
}
