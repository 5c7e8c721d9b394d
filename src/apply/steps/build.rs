//! `build/*`, `install/*`, `smoke` and `tests`: commands on the host that outlive the connection, and their results.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use serde::Deserialize;
use serde_json::json;

use super::host::Python;
use super::{StepContext, StepError, StepOutcome};
use crate::spec::{Name, Run, Spec};
use crate::transport::{JobOutcome, JobRequest, JobStart, Script, run_job};
use crate::world::fs;

pub(super) const INSTALL: Python =
    Python { name: "install", code: include_str!("scripts/install.py"), as_root: true };

/// How many lines of a failed command's output go into its error.
const TAIL: usize = 20;

/// Runs a build.
pub(super) async fn run_build(context: &StepContext, name: &Name) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let build =
        spec.build.get(name).ok_or_else(|| StepError::Failed(format!("build {name} is not in the spec")))?;
    run_long(context, &spec, &build.command).await
}

/// Runs the smoke command.
pub(super) async fn run_smoke(context: &StepContext) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let smoke =
        spec.smoke.as_ref().ok_or_else(|| StepError::Failed("the spec has no smoke command".to_owned()))?;
    run_long(context, &spec, smoke).await
}

/// Runs the test suite and brings its `JUnit` file back, also when it fails.
pub(super) async fn run_tests(context: &StepContext) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let tests = spec.tests.as_ref().ok_or_else(|| StepError::Failed("the spec has no tests".to_owned()))?;
    let Some(junit) = &tests.junit else { return run_long(context, &spec, tests).await };
    let path = match folder(&spec, tests)? {
        Some(folder) => format!("{folder}/{junit}"),
        // A script of the login user begins in its home; without `./` cat takes `-` for its input.
        None => format!("./{junit}"),
    };
    if !context.resume {
        // A file of an earlier run must not pass for this one's.
        context.exec(&Script::user("junit", r#"rm -f -- "$1""#).arg(&path)).await?.success("junit")?;
    }
    let ran = run_long(context, &spec, tests).await;
    if matches!(ran, Err(StepError::Detached | StepError::Stopped | StepError::Transport(_))) {
        return ran;
    }
    let fetched = context.exec(&Script::user("junit", r#"cat -- "$1""#).arg(&path)).await?;
    if fetched.code != 0 {
        let missing = format!("the tests left no JUnit file at {path}");
        return match ran {
            Ok(_) => Err(StepError::Failed(missing)),
            Err(error) => Err(StepError::Failed(format!("{error}\n{missing}"))),
        };
    }
    let here = context.run.session.dir().path().join("junit.xml");
    fs::write_atomic(&here, &fetched.stdout, fs::Mode::Public)
        .map_err(|error| StepError::Failed(format!("{}: {error}", here.display())))?;
    let counts = JunitCounts::read(&fetched.text());
    match ran {
        Ok(mut outcome) => {
            if counts.failures + counts.errors > 0 {
                return Err(StepError::Failed(format!("{counts}, though the command exited with 0")));
            }
            outcome.summary = counts.to_string();
            outcome.facts.insert("tests".to_owned(), counts.tests.to_string());
            outcome.facts.insert("skipped".to_owned(), counts.skipped.to_string());
            Ok(outcome)
        }
        Err(error) => Err(StepError::Failed(format!("{counts}; {error}"))),
    }
}

/// Returns a command's variables, with the operator's own filled in at this last moment.
pub(super) fn environment(context: &StepContext, run: &Run) -> Result<BTreeMap<String, String>, StepError> {
    let resolve = |(key, value): (&String, &String)| match crate::spec::resolve_env(&context.run.world, value)
    {
        Ok(value) => Ok((key.clone(), value)),
        Err(error) => Err(StepError::Failed(format!("variable {key}: {error}"))),
    };
    run.env.iter().map(resolve).collect()
}

/// Returns the folder on the host that a command runs in; `None` is the login user's home.
pub(super) fn folder(spec: &Spec, run: &Run) -> Result<Option<String>, StepError> {
    let Some(name) = &run.in_source else { return Ok(None) };
    match spec.sources.get(name) {
        Some(source) => Ok(Some(source.to.trim_end_matches('/').to_owned())),
        None => Err(StepError::Failed(format!("source {name} is not in the spec"))),
    }
}

/// Runs a command as a job on the host, or takes up one that an earlier lane started.
async fn run_long(context: &StepContext, spec: &Spec, run: &Run) -> Result<StepOutcome, StepError> {
    let id = context
        .run_id
        .as_ref()
        .ok_or_else(|| StepError::Failed("a long step came without a run id".to_owned()))?;
    // A run that the host lost runs again under a second name; that one may be known to the host from an earlier time.
    let second = format!("{}.2", id.0);
    let attempts: &[(&str, JobStart)] = if context.resume {
        &[(&id.0, JobStart::Resume), (&second, JobStart::Fresh)]
    } else {
        &[(&id.0, JobStart::Fresh)]
    };
    for &(name, start) in attempts {
        return match attempt(context, spec, run, name, start).await? {
            JobOutcome::Lost => {
                context.note("the host does not know this run any more; it starts again");
                continue;
            }
            JobOutcome::Detached => Err(StepError::Detached),
            JobOutcome::Exited { code: 0 } => {
                let facts = [("exit".to_owned(), "0".to_owned())].into();
                Ok(StepOutcome { summary: "exit 0".to_owned(), facts })
            }
            JobOutcome::Exited { code } => Err(failed(context, name, &format!("exited with {code}"))),
            JobOutcome::Killed { why } => {
                Err(failed(context, name, &format!("did not end by itself: {why}")))
            }
        };
    }
    Err(failed(context, &id.0, "is not known to the host"))
}

async fn attempt(
    context: &StepContext,
    spec: &Spec,
    run: &Run,
    name: &str,
    start: JobStart,
) -> Result<JobOutcome, StepError> {
    let host = context
        .run
        .session
        .record()
        .host
        .ok_or_else(|| StepError::Failed("there is no host yet".to_owned()))?;
    let mut request = JobRequest {
        run: name.to_owned(),
        unit: format!("lane-{}.service", context.step.id.file_name()),
        user: host.user,
        folder: folder(spec, run)?,
        command: run.run.clone(),
        env: environment(context, run)?,
        timeout: context.step.timeout,
        offset: 0,
    };
    match logged(context, name) {
        Some(output) if start == JobStart::Resume => {
            request.offset = output.len() as u64;
            context.note("takes up the output where it stopped");
        }
        _ => context.log.line(&marker(name)),
    }
    let remote = context.remote()?;
    let mut lines = Lines::default();
    let mut sink = |bytes: &[u8]| {
        context.log.bytes(bytes);
        lines.push(bytes, |line| context.show(line));
    };
    let ended =
        run_job(&*remote, &request, start, &mut sink, &context.run.stopping, &context.run.abort).await;
    lines.end(|line| context.show(line));
    Ok(ended?)
}

/// Marks in the log where a run's output begins, so that its length says how much of it is here.
fn marker(run: &str) -> String {
    format!("== run {run}")
}

/// Returns what the log has of a run's output; `None` when the run is not in it.
fn logged(context: &StepContext, run: &str) -> Option<Vec<u8>> {
    let log = fs::read_optional(context.log.path()).ok()??;
    let marker = format!("{}\n", marker(run)).into_bytes();
    let at = log.windows(marker.len()).rposition(|part| part == marker)?;
    Some(log[at + marker.len()..].to_vec())
}

fn failed(context: &StepContext, run: &str, what: &str) -> StepError {
    let output = String::from_utf8_lossy(&logged(context, run).unwrap_or_default()).into_owned();
    let tail = super::host::last_lines(&output, TAIL);
    StepError::Failed(if tail.trim().is_empty() {
        format!("the command {what} and wrote nothing")
    } else {
        format!("the command {what}; its last lines:\n{tail}")
    })
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    rest: VecDeque<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut show: impl FnMut(&str)) {
        self.rest.extend(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            show(String::from_utf8_lossy(&line).trim_end());
        }
    }

    fn end(&mut self, mut show: impl FnMut(&str)) {
        if !self.rest.is_empty() {
            let line: Vec<u8> = self.rest.drain(..).collect();
            show(String::from_utf8_lossy(&line).trim_end());
        }
    }
}

#[derive(Debug, Deserialize)]
struct Installed {
    results: Vec<InstalledFile>,
}

#[derive(Debug, Deserialize)]
struct InstalledFile {
    dst: String,
    state: String,
    sha256: String,
    stat: String,
    source: String,
    source_stat: String,
}

/// Copies a build's outputs to where they belong; one that is the same already is left alone.
pub(super) async fn run_install(context: &StepContext, name: &Name) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let build =
        spec.build.get(name).ok_or_else(|| StepError::Failed(format!("build {name} is not in the spec")))?;
    let request = json!({
        "build": name.as_str(), "user": spec.access.user, "folder": folder(&spec, &build.command)?,
        "install": build.install,
    });
    let installed: Installed = context.ask(INSTALL, &request).await?;
    let mut facts = BTreeMap::new();
    let mut changed = Vec::new();
    for file in installed.results {
        if file.state == "changed" {
            changed.push(file.dst.clone());
        }
        facts.insert(format!("sha256:{}", file.dst), file.sha256);
        facts.insert(format!("stat:{}", file.dst), file.stat);
        facts.insert(format!("output:{}", file.source), file.source_stat);
    }
    let summary = if changed.is_empty() { "unchanged".to_owned() } else { changed.join(", ") };
    Ok(StepOutcome { summary, facts })
}

/// What a `JUnit` file counts.
#[derive(Debug, Default, PartialEq, Eq)]
struct JunitCounts {
    tests: u64,
    failures: u64,
    errors: u64,
    skipped: u64,
}

impl JunitCounts {
    /// Sums up the suites' attributes, or takes the root's where there is no suite.
    fn read(xml: &str) -> Self {
        let suites: Vec<&str> = xml.split("<testsuite ").skip(1).collect();
        let tags = if suites.is_empty() { xml.split("<testsuites ").skip(1).collect() } else { suites };
        let mut counts = Self::default();
        for tag in tags {
            let tag = tag.split('>').next().unwrap_or_default();
            counts.tests += attribute(tag, "tests");
            counts.failures += attribute(tag, "failures");
            counts.errors += attribute(tag, "errors");
            counts.skipped += attribute(tag, "skipped") + attribute(tag, "disabled");
        }
        counts
    }
}

fn attribute(tag: &str, name: &str) -> u64 {
    let value = tag.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
    value.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

impl fmt::Display for JunitCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tests, {} failed, {} skipped", self.tests, self.failures + self.errors, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, python_here};
    use super::*;
    use crate::plan::{Action, Work};

    fn bench() -> Bench {
        let mut bench = Bench::new().with_host();
        let env = [("KEY".to_owned(), "plain".to_owned())].into();
        let (run, junit) = ("make test".to_owned(), Some("j.xml".to_owned()));
        bench.spec.tests = Some(Run { in_source: None, run, env, junit, timeout: None });
        bench
    }

    fn job(bench: &Bench, output: &str, outcome: &str) {
        bench.host.answer(0, "started\n");
        bench.host.answer(0, output);
        bench.host.answer(0, outcome);
    }

    const JUNIT: &str = r#"<testsuites><testsuite name="a" tests="3" failures="1" skipped="1"/>
        <testsuite name="b" tests="2" failures="0" errors="0"></testsuite></testsuites>"#;

    #[tokio::test(start_paused = true)]
    async fn a_failing_suite_is_counted_and_its_file_brought_back() {
        let mut bench = bench();
        bench.host.answer(0, "");
        job(&bench, "one\ntwo\nboom", "exited 1");
        bench.host.answer(0, JUNIT);
        let error = run_tests(&bench.context(Work::Tests, Action::Create)).await.unwrap_err().to_string();
        assert!(error.starts_with("5 tests, 1 failed, 1 skipped; the command exited with 1"), "{error}");
        assert!(error.ends_with("  one\n  two\n  boom"), "{error}");
        assert_eq!(bench.shown(), ["one", "two", "boom"]);
        let here = bench.run.session.dir().path().join("junit.xml");
        assert_eq!(fs::read(&here).unwrap(), JUNIT.as_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_taken_up_where_its_output_stopped_and_started_again_when_lost() {
        let bench = bench();
        let mut context = bench.context(Work::Tests, Action::Resume);
        context.resume = true;
        context.log.bytes(b"== run 01other\nold\n== run 01run\none\n");
        job(&bench, "two\n", "exited 0");
        bench.host.answer(0, r#"<testsuite tests="1"/>"#);
        assert_eq!(run_tests(&context).await.unwrap().summary, "1 tests, 0 failed, 0 skipped");
        let scripts = std::mem::take(&mut *bench.host.scripts.lock().unwrap());
        assert!(
            scripts[0].args.contains(&"resume".to_owned()) && scripts[0].args.contains(&"01run".to_owned())
        );
        assert_eq!(scripts[1].args.last().unwrap(), "4", "what the log has is not sent again");

        bench.host.answer(0, "lost\n");
        job(&bench, "", "exited 0");
        bench.host.answer(0, r#"<testsuite tests="1"/>"#);
        run_tests(&context).await.unwrap();
        let scripts = bench.host.scripts.lock().unwrap();
        assert!(
            scripts[1].args.contains(&"fresh".to_owned()) && scripts[1].args.contains(&"01run.2".to_owned())
        );
    }

    #[test]
    fn outputs_are_installed_once_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write_atomic(&folder.path().join("out"), b"binary", fs::Mode::Public).unwrap();
        let dst = folder.path().join("bin/tool").display().to_string();
        let mut request = json!({
            "build": "b", "user": "root", "folder": folder.path().display().to_string(), "install": {"out": dst},
        });
        let install = |request: &serde_json::Value| python_here(INSTALL.code, request, None);
        let first = install(&request);
        assert_eq!(first["results"][0]["state"], "changed");
        let second = install(&request);
        assert_eq!(second["results"][0]["state"], "same");
        assert_eq!(first["results"][0]["stat"], second["results"][0]["stat"], "the inode stays");
        fs::write_atomic(&folder.path().join("out"), b"newer", fs::Mode::Public).unwrap();
        assert_eq!(install(&request)["results"][0]["state"], "changed");
        assert_eq!(fs::read(&folder.path().join("bin/tool")).unwrap(), b"newer");
        request["install"] = json!({"target/release/x": "/nonexistent/x"});
        let failed = install(&request)["failed"].as_str().unwrap().to_owned();
        assert!(failed.starts_with("build b left no ") && failed.ends_with("target/release/x"), "{failed}");
    }
}
