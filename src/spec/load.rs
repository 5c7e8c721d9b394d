//! Reads a spec: text → tree → walk and cross checks → typed structs → [`Spec`].
//!
//! Opens the spec's own file and no other; runs nothing.

use std::io;
use std::path::{Path, PathBuf};

use super::cross::cross;
use super::model::Spec;
use super::raw::RawSpec;
use super::resolve::resolve;
use super::schema::walk_schema;
use super::source_map::{Complaint, SourceMap};
use super::tree::{self, Node, Value};
use super::walk::walk;
use crate::provider;
use crate::world::{World, fs, normalize};

/// Larger than any spec that a person writes, small enough to be read in an instant.
const MAX_BYTES: usize = 1 << 20;

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("{}: there is no such file", .0.display())]
    NotThere(PathBuf),
    /// The path is a folder's.
    #[error("{}: a folder, not a spec", .0.display())]
    Folder(PathBuf),
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not UTF-8.
    #[error("{}:{line}: not UTF-8 text", .path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first line that is not.
        line: usize,
    },
    /// The file is far larger than any spec.
    #[error("{}: {size} bytes are more than a spec may have ({MAX_BYTES})", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: usize,
    },
    /// The file holds nothing.
    #[error("{}: the file is empty", .0.display())]
    Empty(PathBuf),
    /// The file has faults: at least one, in the order of their places.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Complaints(Vec<Complaint>),
}

impl LoadError {
    /// Shows everything that is wrong, with each line and a caret where there is a place.
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Complaints(complaints) => {
                let shown: Vec<String> =
                    complaints.iter().map(|complaint| complaint.render(colour)).collect();
                shown.join("\n\n")
            }
            other => format!("error: {other}"),
        }
    }

    /// Returns the complaints that have a place.
    pub fn complaints(&self) -> &[Complaint] {
        if let Self::Complaints(complaints) = self { complaints } else { &[] }
    }
}

/// Reads and checks the spec of this path; a relative one is taken from the working folder.
pub fn load(world: &World, path: &Path) -> Result<Spec, LoadError> {
    let given = || path.to_path_buf();
    let bytes = fs::read(&normalize(&world.cwd().join(path))).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LoadError::NotThere(given()),
        io::ErrorKind::IsADirectory => LoadError::Folder(given()),
        _ => LoadError::Unreadable { path: given(), source },
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        LoadError::NotUtf8 { path: given(), line: good.split(|&byte| byte == b'\n').count() }
    })?;
    load_text(world, path, text)
}

/// Checks a text as the spec that would stand at this path; reads no file.
pub fn load_text(world: &World, path: &Path, text: &str) -> Result<Spec, LoadError> {
    if text.len() > MAX_BYTES {
        return Err(LoadError::TooLarge { path: path.to_path_buf(), size: text.len() });
    }
    // Places are counted in the text as it is kept, and a byte order mark is in no editor's columns.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let shown = path.strip_prefix(world.cwd()).unwrap_or(path);
    let map = SourceMap::bare(&normalize(&world.cwd().join(path)), shown, text);
    let tree = tree::parse(text).map_err(|error| {
        LoadError::Complaints(vec![map.at(&error.span, format!("this is not YAML: {}", error.message), None)])
    })?;
    if matches!(tree.value, Value::Null) {
        return Err(LoadError::Empty(path.to_path_buf()));
    }
    let map = map.with_tree(&tree);
    let mut complaints = walk(&map, walk_schema(), &tree);
    complaints.extend(cross(&map, &tree));
    if complaints.is_empty() {
        match typed(&tree) {
            Ok((raw, entry)) => return Ok(resolve(world, map, raw, entry)),
            Err(message) => complaints.push(map.at(&(0..0), message, None)),
        }
    }
    complaints.sort_by_key(Complaint::order);
    complaints.dedup_by(|later, first| later.order() == first.order() && later.message == first.message);
    Err(LoadError::Complaints(complaints))
}

/// Reads the structs out of a tree that the walk has passed.
fn typed(tree: &Node) -> Result<(RawSpec, &'static provider::Entry), String> {
    let raw: RawSpec = serde_json::from_value(tree.to_json()).map_err(|error| error.to_string())?;
    let name = raw.provider.0.get("name").and_then(serde_json::Value::as_str).unwrap_or("");
    let entry = provider::by_name(name).ok_or_else(|| format!("no provider is called `{name}`"))?;
    Ok((raw, entry))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read fixtures")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::schema::json_schema;
    use super::super::{AllowFrom, KvmNeed, ProbeKind};
    use super::*;
    use crate::world::SystemClock;

    fn world() -> World {
        let env = BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]);
        World::fixed(Arc::new(SystemClock), env, PathBuf::from("/srv/repo"))
    }

    fn from_text(text: &str) -> Result<Spec, LoadError> {
        load_text(&world(), Path::new("specs/test.yaml"), text)
    }

    fn messages(text: &str) -> Vec<String> {
        match from_text(text) {
            Ok(_) => vec![],
            Err(LoadError::Complaints(complaints)) => {
                complaints.iter().map(|it| it.message.clone()).collect()
            }
            Err(other) => vec![other.to_string()],
        }
    }

    /// The files of a folder of the repository, by name.
    fn files(folder: &str) -> Vec<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut all: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| {
                (file.file_name().into_string().unwrap(), std::fs::read_to_string(file.path()).unwrap())
            })
            .collect();
        all.sort();
        assert!(all.len() > 3);
        all
    }

    fn fixtures(folder: &str) -> Vec<(String, String)> {
        files(&format!("tests/fixtures/specs/{folder}"))
    }

    #[test]
    fn bad_specs_get_all_their_complaints() {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../tests/fixtures/specs/snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let _bound = settings.bind_to_scope();
        for (name, text) in fixtures("bad") {
            let error = load_text(&world(), &Path::new("specs").join(&name), &text).expect_err(&name);
            insta::assert_snapshot!(name.clone(), error.render(false));
            let coloured = error.render(true).contains("\u{1b}[");
            assert!(coloured || error.complaints().is_empty(), "{name} has colour when it is asked for");
        }
    }

    #[test]
    fn one_file_shows_more_than_ten_faults_in_order() {
        let (_, text) = fixtures("bad").into_iter().find(|(name, _)| name == "many.yaml").unwrap();
        let error = from_text(&text).unwrap_err();
        let places: Vec<_> = error.complaints().iter().map(|it| (it.line, it.column)).collect();
        assert!(places.len() > 30, "{}", places.len());
        assert!(places.is_sorted());
    }

    #[test]
    fn good_specs_load() {
        for (name, text) in fixtures("good") {
            if let Err(error) = from_text(&text) {
                panic!("{name}\n{}", error.render(false));
            }
        }
    }

    #[test]
    fn defaults_come_from_the_provider_and_from_us() {
        let spec = from_text("{version: 1, name: x, provider: {name: gcp, project: p}}").unwrap();
        let entry = provider::by_name("gcp").unwrap();
        assert_eq!(spec.sku, entry.default_sku);
        assert_eq!(spec.region, entry.default_region);
        assert_eq!(spec.image, entry.default_image);
        assert_eq!(spec.timeouts.provision, entry.provision_timeout);
        assert_eq!(spec.timeouts.tests, Duration::from_hours(1));
        assert_eq!((spec.disk_bytes, spec.kvm), (50_000_000_000, KvmNeed::Required));
        assert_eq!((spec.lease.ttl, spec.lease.max_spend), (Duration::from_hours(2), None));
        assert_eq!((spec.access.user.as_str(), spec.access.allow_from), ("mvm", AllowFrom::Auto));
        assert!(spec.cloud_init.is_none() && spec.smoke.is_none() && spec.services.is_empty());
    }

    #[test]
    fn what_is_written_arrives() {
        let (_, text) = fixtures("good").into_iter().find(|(name, _)| name == "full.yaml").unwrap();
        let spec = from_text(&text).unwrap();
        assert_eq!(spec.provider.name, "gcp");
        assert_eq!(spec.provider.config["project"], "${env:PROJECT}", "variables stay unresolved");
        assert_eq!(spec.provider.config.get("name"), None);
        assert_eq!(spec.region.as_str(), "us-central1-b");
        assert_eq!(spec.disk_bytes, 100 << 30);
        assert_eq!(spec.lease.max_spend.as_ref().map(|money| money.micros), Some(3_500_000));
        let entry = provider::by_name("gcp").unwrap();
        let price = |sku: &str| {
            let price = crate::spec::price(Some(&spec), entry, &provider::Sku::new(sku), &spec.region);
            price.map(|price| price.per_hour.micros)
        };
        assert_eq!(price(spec.sku.as_str()), Some(250_000), "the spec's own word");
        assert_eq!(price("c2-standard-4"), Some(208_800), "of another host the spec says nothing");
        let path = |name: &str, wanted: &str| assert_eq!(name, wanted);
        path(spec.cloud_init.unwrap().path.to_str().unwrap(), "/srv/repo/cloud-init/kvm-host.yaml");
        let sources: Vec<_> =
            spec.sources.values().map(|source| source.folder.path.to_str().unwrap()).collect();
        assert_eq!(sources, ["/home/me/mvm", "/srv/repo/mvmd"]);
        assert_eq!(spec.files["/etc/mvmd/plain.toml"].mode, 0o600, "0600 without quotes is octal, too");
        assert_eq!(spec.files["/etc/mvmd/plain.toml"].template.path, Path::new("/srv/plain.toml.j2"));
        let service = spec.services.values().nth(1).unwrap();
        assert_eq!(service.unit.key, "services.mvmd-coordinator.unit");
        assert_eq!((service.stable_for, service.after.len()), (Duration::from_secs(5), 1));
        let build = spec.build.values().next().unwrap();
        assert_eq!(build.install["target/release/mvmd"], "/usr/local/bin/mvmd");
        assert_eq!(build.command.run, "cargo build --release\nstrip target/release/mvmd\n");
        assert_eq!(build.command.timeout, Some(Duration::from_mins(45)));
        let kinds: Vec<_> = spec.probes.iter().map(|(name, probe)| (name.as_str(), &probe.kind)).collect();
        assert_eq!(kinds[0].0, "gateway");
        assert!(matches!(kinds[0].1, ProbeKind::Http { expect: 204, .. }));
        assert!(matches!(kinds[2].1, ProbeKind::Http { expect: 200, contains: None, .. }));
        assert_eq!(spec.tests.unwrap().junit.as_deref(), Some("target/junit.xml"));
        let timeouts = spec.timeouts;
        assert_eq!(
            [timeouts.ssh, timeouts.probe, timeouts.destroy].map(|limit| limit.as_secs()),
            [60, 6, 540]
        );
    }

    #[test]
    fn later_complaints_find_their_place() {
        let (_, text) = fixtures("good").into_iter().find(|(name, _)| name == "full.yaml").unwrap();
        let spec = from_text(&text).unwrap();
        for file in
            [&spec.services.values().next().unwrap().unit, &spec.files["/etc/mvmd/plain.toml"].template]
        {
            let complaint = spec.source_map.complaint(&file.key, "there is no such file", Some("make it"));
            let line = text.lines().nth(complaint.line - 1).unwrap();
            let rest: String = line.chars().skip(complaint.column - 1).collect();
            assert!(rest.starts_with(&file.written), "{rest}");
            assert!(
                complaint
                    .render(false)
                    .contains(&format!("specs/test.yaml:{}:{}", complaint.line, complaint.column))
            );
        }
        let below = spec.source_map.complaint("services.mvm-hostd.after.3", "x", None);
        assert_eq!(
            text.lines().nth(below.line - 1).map(|line| line.trim().starts_with("mvm-hostd")),
            Some(true)
        );
        assert_eq!((spec.source_map.complaint("nowhere", "x", None).line), 1);
    }

    #[test]
    fn files_that_are_no_specs() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            load(&world(), &path).unwrap_err().to_string().replace(folder.path().to_str().unwrap(), "D")
        };
        assert_eq!(write("latin1.yaml", b"version: 1\nname: \xe9\n"), "D/latin1.yaml:2: not UTF-8 text");
        assert_eq!(write("empty.yaml", b""), "D/empty.yaml: the file is empty");
        assert_eq!(write("marked.yaml", "\u{feff}".as_bytes()), "D/marked.yaml: the file is empty");
        let large = write("large.yaml", &vec![b'#'; MAX_BYTES + 1]);
        assert_eq!(large, "D/large.yaml: 1048577 bytes are more than a spec may have (1048576)");
        let missing = load(&world(), Path::new("no/such.yaml")).unwrap_err();
        assert_eq!(missing.render(false), "error: no/such.yaml: there is no such file");
        assert!(matches!(load(&world(), folder.path()).unwrap_err(), LoadError::Folder(_)));
    }

    #[test]
    fn places_are_right_behind_a_byte_order_mark_and_wide_characters() {
        let error = from_text(
            "\u{feff}version: 1\nname: x\nprovider: {name: nspawn}\nsmoke: {run: \"🦀é\", rn: 1}\n",
        )
        .unwrap_err();
        let places: Vec<_> = error.complaints().iter().map(|it| (it.line, it.column)).collect();
        assert_eq!(places, [(4, 20)]);
    }

    #[test]
    fn keys_of_a_lane_in_the_wrong_place_are_led_home() {
        let spec = "version: 1\nname: x\nprovider: {name: nspawn}\n";
        let help = |more: &str| {
            from_text(&format!("{spec}{more}")).unwrap_err().complaints()[0].help.clone().unwrap()
        };
        assert_eq!(help("max_spend: 3 USD"), "it belongs under `lease`");
        assert_eq!(help("lease: {services: {}}"), "`services` belongs to the top level");
        assert_eq!(help("smoke: {run: x, env: {PORT: 8080}}"), "put it in quotes: \"8080\"");
        assert_eq!(help("sources: {a: {path: a, to: /srv/a, exclude: target}}"), "write `[target]`");
    }

    #[test]
    fn hostile_texts_end_in_complaints() {
        let deep = format!("a: {}{}", "[".repeat(20_000), "]".repeat(20_000));
        let block: String = (0..2000).flat_map(|depth| [" ".repeat(depth), "a:\n".to_owned()]).collect();
        let aliases = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(1000), "*a, ".repeat(1000));
        for text in [
            &deep,
            &block,
            &aliases,
            "\0",
            "%YAML 9.9\n---\n",
            "!!python/object:os.system x",
            "? [a]\n: b",
            "&a *a",
            "a: .nan",
            "---\n...\n---",
        ] {
            let started = Instant::now();
            assert!(from_text(text).is_err());
            assert!(started.elapsed() < Duration::from_secs(5));
        }
    }

    /// What the walk, serde and the published schema each say to one JSON value.
    fn verdicts(value: &serde_json::Value, validator: &jsonschema::Validator) -> (bool, bool, bool) {
        let text = value.to_string();
        let tree = tree::parse(&text).unwrap();
        let map = SourceMap::bare(Path::new("/x"), Path::new("x"), &text);
        let walked = walk(&map, walk_schema(), &tree).is_empty();
        (walked, typed(&tree).is_ok(), validator.is_valid(value))
    }

    #[test]
    fn walk_serde_and_schema_agree_on_the_fixtures() {
        let validator = jsonschema::validator_for(&json_schema()).unwrap();
        for (name, text) in fixtures("good") {
            let value = tree::parse(&text).unwrap().to_json();
            assert_eq!(verdicts(&value, &validator), (true, true, true), "{name}");
        }
        for (name, text) in fixtures("bad") {
            // Those that are no tree have no verdict; a duplicate key is lost in JSON.
            let Ok(tree) = tree::parse(&text) else { continue };
            let (walked, typed, valid) = verdicts(&tree.to_json(), &validator);
            assert_eq!(walked, valid, "{name}");
            // Unlike the walk, serde leaves the provider's keys to the adapter.
            assert!(typed || !walked, "{name}");
        }
    }

    #[test]
    fn the_repositorys_own_specs_load_and_pass_the_published_schema() {
        let validator = jsonschema::validator_for(&json_schema()).unwrap();
        let is_spec = |name: &str| Path::new(name).extension().is_some_and(|kind| kind == "yaml");
        for (name, text) in files("specs").iter().filter(|(name, _)| is_spec(name)) {
            if let Err(error) = from_text(text) {
                panic!("{name}\n{}", error.render(false));
            }
            assert_eq!(
                verdicts(&tree::parse(text).unwrap().to_json(), &validator),
                (true, true, true),
                "{name}"
            );
        }
    }

    /// Every place in a value.
    fn pointers(value: &serde_json::Value, at: &str, out: &mut Vec<String>) {
        out.push(at.to_owned());
        let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
        match value {
            serde_json::Value::Object(map) => {
                map.iter().for_each(|(key, item)| pointers(item, &format!("{at}/{}", escape(key)), out));
            }
            serde_json::Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), out));
            }
            _ => {}
        }
    }

    fn replacement() -> impl Strategy<Value = serde_json::Value> {
        prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Into::into),
            (-5i64..2000).prop_map(Into::into),
            Just(json!(1.5)),
            Just(json!([])),
            Just(json!({})),
            Just(json!(["a"])),
            Just(json!({"a": "b"})),
            prop::sample::select(vec![
                "",
                "a",
                "/a",
                "/a/b",
                "2h",
                "50 GB",
                "3 USD",
                "0640",
                "auto",
                "none",
                "root",
                "mvm",
                "10.0.0.0/8",
                "http://a/",
                "a:1",
                "hex",
                "kvm",
                "http",
                "A",
                "a b",
                "a\nb",
                "x/",
            ])
            .prop_map(Into::into),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// Changes one place of the full spec: the three never differ, but where a form is more than its pattern.
        #[test]
        fn walk_serde_and_schema_agree_on_changed_specs(
            place in any::<prop::sample::Index>(),
            change in prop_oneof![
                3 => replacement().prop_map(Some),
                1 => Just(None),
            ],
            key in prop::sample::select(vec!["a", "run", "in", "B", "a b", "timeout", "/x/y"]),
        ) {
            thread_local! {
                static VALIDATOR: jsonschema::Validator = jsonschema::validator_for(&json_schema()).unwrap();
                static FULL: serde_json::Value = {
                    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/specs/good/full.yaml");
                    tree::parse(&std::fs::read_to_string(path).unwrap()).unwrap().to_json()
                };
            }
            let mut value = FULL.with(Clone::clone);
            let mut places = Vec::new();
            pointers(&value, "", &mut places);
            let at = place.get(&places);
            let spot = value.pointer_mut(at).unwrap();
            // A derived struct also reads a list of its fields, which no schema says and the walk refuses.
            prop_assume!(!(spot.is_object() && change.as_ref().is_some_and(serde_json::Value::is_array)));
            match (change, spot) {
                (Some(new), serde_json::Value::Object(map)) => { map.insert(key.to_owned(), new); }
                (Some(new), spot) => *spot = new,
                (None, serde_json::Value::Object(map)) => { map.shift_remove(&map.keys().next().cloned().unwrap_or_default()); }
                (None, spot) => *spot = serde_json::Value::Null,
            }
            let (walked, typed, valid) = VALIDATOR.with(|validator| verdicts(&value, validator));
            if !at.starts_with("/provider") {
                prop_assert_eq!(walked, typed, "walk and serde at {}: {}", at, value);
            }
            prop_assert!(!walked || valid, "walk and schema at {}: {}", at, value);
        }

        #[test]
        fn no_text_panics(text in "[a-z\\[\\]{}:,&*!|>'\"%#\\-? \\n\\t0-9$~é]{0,200}") {
            drop(from_text(&text).map_err(|error| (error.render(false), error.render(true))));
        }

        #[test]
        fn no_change_of_bytes_panics(at in any::<prop::sample::Index>(), cut in 0usize..40, new in "[^a-z0-9]{0,4}") {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/specs/good/full.yaml");
            let mut text: Vec<char> = std::fs::read_to_string(path).unwrap().chars().collect();
            let start = at.index(text.len());
            let end = (start + cut).min(text.len());
            text.splice(start..end, new.chars());
            drop(from_text(&String::from_iter(text)).map_err(|error| error.render(false)));
        }
    }

    #[test]
    fn a_clean_spec_has_no_complaint() {
        assert_eq!(messages("{version: 1, name: x, provider: {name: nspawn}}"), Vec::<String>::new());
        assert_eq!(
            messages("{version: 1, name: x, provider: {name: nspwn}}"),
            ["no provider is called `nspwn`"]
        );
    }
}
