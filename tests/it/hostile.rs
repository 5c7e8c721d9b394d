//! Texts that break shells, units and file systems, carried through a whole lane to a host that really boots. What the
//! spec refuses, place by place, is tested beside the spec; here is what it takes.

use std::fmt::Write as _;

use crate::support::{can_boot_hosts, small};

/// Would be seen by the file that it makes, if anything ever ran it.
const WORDS: [&str; 9] = [
    "it's \"quoted\" `touch /tmp/ran`",
    "$(touch /tmp/ran); touch /tmp/ran & $HOME ${HOME}",
    " %n %% \\ \\n {{ lane.name }} {% x %} ",
    "-rf --help",
    "# no: comment, [no] {list}",
    "ünï 🦀 e\u{301}",
    "*?[a-z]!",
    "\ttab\t",
    "|| true > /tmp/ran <x",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Tells whether a word can name a file of a spec: no control characters there.
fn is_file_name(word: &str) -> bool {
    word.len() < 200 && !word.contains(['/', '\t'])
}

/// Reads a file of the host byte for byte; the script's `$1` is the path, in quotes of Python's making.
fn bytes_on_host(lab: &crate::support::Lab, path: &str) -> String {
    let path = hex(path.as_bytes());
    lab.on_host(&format!(
        "sudo python3 -c 'import sys; print(open(bytes.fromhex(sys.argv[1]),\"rb\").read().hex())' {path}"
    ))
}

#[test]
fn real_host_gets_hostile_texts_byte_for_byte() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("hostile", 0);
    let folder = "/etc/ho st$(touch /tmp/ran)';`\"ü";
    let long = "x".repeat(10_000);
    let words: Vec<&str> = WORDS.into_iter().chain([long.as_str()]).collect();

    let json = |text: &str| serde_json::to_string(text).unwrap();
    let mut variables = String::new();
    let mut files = String::new();
    for (number, word) in words.iter().enumerate() {
        let _ = write!(variables, "W{number}: {}, ", json(word));
        if is_file_name(word) {
            let _ = writeln!(
                files,
                "  {}: {{template: {}, mode: \"0644\", owner: root}}",
                json(&format!("{folder}/{word}")),
                json(&format!("web/{word}.j2"))
            );
            lab.write(&format!("web/{word}.j2"), &format!("{{% raw %}}{word}{{% endraw %}}\r\n\0end"));
        }
    }
    assert!(files.lines().count() > 4, "{files}");
    lab.edit(
        "hostile.yaml",
        "    run: bash build.sh\n",
        &format!("    run: bash build.sh\n    env: {{{variables}}}\n"),
    );
    lab.edit("hostile.yaml", "env: {GREETING:", &format!("env: {{{variables} GREETING:"));
    lab.edit("hostile.yaml", "  /etc/web.conf: ", &format!("{files}  /etc/web.conf: "));
    lab.edit("web/build.sh", "set -eu\n", "set -eu\nenv -0 >~/build-env\n");
    lab.apply().exits(0);

    let build = bytes_on_host(&lab, "/home/mvm/build-env");
    let service = lab.on_host(
        "sudo cat /proc/$(systemctl show --property MainPID --value web)/environ | python3 -c 'import sys; print(sys.stdin.buffer.read().hex())'",
    );
    for (number, word) in words.iter().enumerate() {
        let entry = hex(format!("W{number}={word}\0").as_bytes());
        assert!(build.contains(&entry), "the build got something else than W{number}={word:?}");
        assert!(service.contains(&entry), "the service got something else than W{number}={word:?}");
        if is_file_name(word) {
            let expected = hex(format!("{word}\r\n\0end").as_bytes());
            assert_eq!(bytes_on_host(&lab, &format!("{folder}/{word}")), expected, "{word:?}");
            // The templates lie in the source too, so their names went through the sync.
            lab.on_host(&format!(
                "python3 -c 'import sys; open(b\"/home/mvm/web/\" + bytes.fromhex(sys.argv[1]))' {}",
                hex(format!("{word}.j2").as_bytes())
            ));
        }
    }
    assert_eq!(lab.on_host("ls -A /tmp/ran 2>/dev/null || echo never"), "never");
    assert!(!std::path::Path::new("/tmp/ran").exists(), "something ran on this machine");
    assert_eq!(lab.changes(), Vec::new());
    lab.destroy();
}
