//! `service/*`: installs, enables and starts a unit, and watches that it stays up. Orders nothing; the plan does.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::host::{Python, UNITS};
use super::{StepContext, StepError, StepOutcome};
use crate::spec::Name;

pub(super) const SERVICE: Python =
    Python { name: "service", code: include_str!("scripts/service.py"), as_root: true };

#[derive(Debug, Deserialize)]
struct Brought {
    state: String,
    reasons: Vec<String>,
    stat: String,
}

/// Brings the service up; leaves it running when nothing that it runs on is different.
pub(super) async fn run(context: &StepContext, name: &Name) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let service = spec
        .services
        .get(name)
        .ok_or_else(|| StepError::Failed(format!("service {name} is not in the spec")))?;
    let here = &service.unit.path;
    let unit = context.run.inputs.texts.get(here);
    let unit = unit
        .ok_or_else(|| StepError::Failed(format!("unit file {} is not on this machine", here.display())))?;
    context.run.session.put_content(unit)?;
    let mut env = BTreeMap::new();
    for (key, value) in &service.env {
        let value = crate::spec::resolve_env(&context.run.world, value)
            .map_err(|error| StepError::Failed(format!("environment of service {name}: {error}")))?;
        env.insert(key.as_str(), value);
    }
    let files: BTreeSet<&String> =
        service.needs.iter().chain(spec.files.keys().filter(|path| unit.contains(path.as_str()))).collect();
    let mut request = base(context, name);
    request["unit"] = json!(unit);
    request["env"] = json!(env);
    request["files"] = json!(files);
    request["stable_for"] = json!(service.stable_for.as_secs_f64());
    let brought: Brought = context.ask(SERVICE, &request).await?;
    let summary = match brought.state.as_str() {
        "unchanged" => "active, unchanged".to_owned(),
        _ => format!("active ({})", brought.reasons.join(", ")),
    };
    Ok(StepOutcome { summary, facts: [(format!("stat:{UNITS}/{name}.service"), brought.stat)].into() })
}

/// Stops, disables and removes a service that the spec dropped.
pub(super) async fn forget(context: &StepContext, name: &Name) -> Result<StepOutcome, StepError> {
    let mut request = base(context, name);
    request["remove"] = json!(true);
    let brought: Brought = context.ask(SERVICE, &request).await?;
    Ok(StepOutcome { summary: brought.state, ..StepOutcome::default() })
}

fn base(context: &StepContext, name: &Name) -> Value {
    json!({
        "name": name.as_str(), "units": UNITS, "env_folder": "/etc/lane/env", "notes": "/var/lib/lane/services",
        "timeout": context.step.timeout.as_secs().max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::python_here;
    use super::*;
    use crate::world::fs;
    use std::path::Path;

    /// A `systemctl` that remembers what it was told, in the folder above its own.
    const SYSTEMCTL: &str = r#"#!/bin/sh
here=$(dirname "$0")/..
echo "$*" >>"$here/calls"
state=$(cat "$here/state" 2>/dev/null || echo inactive)
case $1 in
show) printf 'ActiveState=%s\nSubState=x\nResult=exit-code\nInvocationID=%s\nNRestarts=0\nUnitFileState=%s\nNeedDaemonReload=no\n' \
    "$state" "$(grep -c ^restart "$here/calls")" "$(cat "$here/enabled" 2>/dev/null)" ;;
enable) echo enabled >"$here/enabled" ;;
restart) if [ -e "$here/broken" ]; then echo failed >"$here/state"; else echo active >"$here/state"; fi ;;
disable) echo inactive >"$here/state" ;;
status) echo "the status" ;;
esac
"#;

    struct Systemd(tempfile::TempDir);

    impl Systemd {
        fn new() -> Self {
            use std::os::unix::fs::PermissionsExt;
            let folder = tempfile::tempdir().unwrap();
            let bin = folder.path().join("bin");
            fs::create_dir_all(&bin).unwrap();
            for (name, text) in [
                ("systemctl", SYSTEMCTL),
                ("journalctl", "#!/bin/sh\necho \"a validator refused the value\"\n"),
            ] {
                fs::write_atomic(&bin.join(name), text.as_bytes(), fs::Mode::Public).unwrap();
                std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self(folder)
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn write(&self, name: &str, text: &str) {
            fs::write_atomic(&self.path().join(name), text.as_bytes(), fs::Mode::Public).unwrap();
        }

        fn calls(&self, verb: &str) -> usize {
            let calls = fs::read(&self.path().join("calls")).unwrap();
            String::from_utf8(calls).unwrap().lines().filter(|line| line.starts_with(verb)).count()
        }

        fn request(&self, unit: &str) -> Value {
            let at = |name: &str| self.path().join(name).display().to_string();
            json!({
                "name": "web", "units": at("units"), "env_folder": at("env"), "notes": at("notes"), "timeout": 5,
                "unit": unit.replace("BIN", &at("program")), "env": {"KEY": "a \"quoted\" $value"},
                "files": [at("config")], "stable_for": 0.05,
            })
        }

        fn bring(&self, request: &Value) -> Value {
            let path = format!("{}/bin:/usr/bin:/bin", self.path().display());
            python_here(SERVICE.code, request, Some(&path))
        }
    }

    const UNIT: &str = "[Service]\nExecStart=-BIN --flag\n[Install]\nWantedBy=multi-user.target\n";

    #[test]
    fn a_service_is_restarted_only_for_what_it_runs_on() {
        let systemd = Systemd::new();
        systemd.write("program", "one");
        let request = systemd.request(UNIT);
        assert_eq!(systemd.bring(&request)["state"], "restarted");
        assert_eq!(
            (systemd.calls("restart"), systemd.calls("enable"), systemd.calls("daemon-reload")),
            (1, 1, 1)
        );
        let env = fs::read(&systemd.path().join("env/web")).unwrap();
        assert_eq!(String::from_utf8(env).unwrap(), "KEY=\"a \\\"quoted\\\" \\$value\"\n");
        let mode =
            std::os::unix::fs::MetadataExt::mode(&fs::metadata(&systemd.path().join("env/web")).unwrap());
        assert_eq!(mode & 0o777, 0o600);

        assert_eq!(systemd.bring(&request)["state"], "unchanged");
        assert_eq!((systemd.calls("restart"), systemd.calls("daemon-reload")), (1, 1));

        systemd.write("program", "two");
        assert!(systemd.bring(&request)["reasons"][0].as_str().unwrap().ends_with("program changed"));
        systemd.write("config", "new");
        assert!(systemd.bring(&request)["reasons"][0].as_str().unwrap().ends_with("config changed"));
        assert_eq!(
            systemd.bring(&systemd.request(&format!("{UNIT}# x\n")))["reasons"][0],
            "its unit changed"
        );
        systemd.write("state", "inactive");
        assert_eq!(systemd.bring(&systemd.request(&format!("{UNIT}# x\n")))["reasons"][0], "it was inactive");
        assert_eq!(systemd.calls("restart"), 5);
    }

    #[test]
    fn a_service_that_dies_at_once_is_shown_with_its_journal_and_tried_again() {
        let systemd = Systemd::new();
        systemd.write("program", "one");
        systemd.write("broken", "");
        let failed = systemd.bring(&systemd.request(UNIT))["failed"].as_str().unwrap().to_owned();
        assert!(failed.starts_with("web.service is failed (exit-code), not active"), "{failed}");
        assert!(
            failed.contains("the status") && failed.contains("  a validator refused the value"),
            "{failed}"
        );
        fs::remove_file(&systemd.path().join("broken")).unwrap();
        assert_eq!(systemd.bring(&systemd.request(UNIT))["state"], "restarted");
    }

    #[test]
    fn a_forgotten_service_leaves_nothing() {
        let systemd = Systemd::new();
        systemd.write("program", "one");
        let mut request = systemd.request(UNIT);
        systemd.bring(&request);
        request["remove"] = json!(true);
        assert_eq!(systemd.bring(&request)["state"], "removed");
        assert!(fs::list(&systemd.path().join("units")).unwrap().is_empty());
        assert!(fs::list(&systemd.path().join("env")).unwrap().is_empty());
        assert_eq!(systemd.bring(&request)["state"], "was not there");
    }
}
