//! The arrows between modules: who may use whom. ARCHITECTURE.md draws the same picture.

use std::path::{Path, PathBuf};

use crate::support::root;

/// Module → what it may name with `crate::`.
const ARROWS: &[(&str, &[&str])] = &[
    ("world", &[]),
    ("error", &["inputs", "plan", "provider", "spec", "state", "transport", "user_data", "apply"]),
    ("spec", &["plan", "provider", "world"]),
    ("inputs", &["plan", "spec", "world"]),
    ("plan", &["spec", "state", "provider", "inputs"]),
    ("provider", &["plan", "world"]),
    ("state", &["plan", "provider", "spec", "inputs", "world"]),
    ("transport", &["plan", "world"]),
    ("user_data", &["plan", "provider"]),
    ("apply", &["plan", "state", "provider", "transport", "spec", "inputs", "user_data", "world"]),
    ("report", &["plan", "apply", "world"]),
    (
        "cli",
        &["apply", "error", "inputs", "plan", "provider", "report", "spec", "state", "transport", "world"],
    ),
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// A file's text without comments, and without its tests, whose needs are wider.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let line = |line: &str| if line.trim_start().starts_with("//") { String::new() } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_use_only_what_they_may() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let module = module_of(&file);
        let name = file.file_name().unwrap();
        // The simulation is a test: it needs everything.
        if ["lib", "main", "sim"].contains(&module.as_str()) || name == "testing.rs" {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == module) else {
            panic!("{} is in no module that this test knows", file.display());
        };
        let text = code(&file);
        for (place, _) in text.match_indices("crate::") {
            let rest = &text[place + "crate::".len()..];
            let used: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let known = ARROWS.iter().any(|(name, _)| *name == used);
            if known && used != module && !allowed.contains(&used.as_str()) {
                let line = text[..place].lines().count();
                wrong.push(format!("{}:{line}: `{module}` must not use `{used}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_planner_is_pure() {
    let mut files = Vec::new();
    sources(&root().join("src/plan"), &mut files);
    for file in files {
        let text = code(&file);
        for word in [
            "async fn",
            ".await",
            "tokio::",
            "world::",
            "std::fs",
            "std::env",
            "SystemTime",
            "Instant",
            "HashMap",
            "Timestamp::now",
        ] {
            assert!(
                !text.contains(word),
                "{} holds `{word}`: the planner has no effects and no random order",
                file.display()
            );
        }
    }
}

#[test]
fn adapters_do_not_know_each_other() {
    let mut files = Vec::new();
    sources(&root().join("src/provider/adapters"), &mut files);
    let names: Vec<String> =
        files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    for file in &files {
        let text = code(file);
        for name in names.iter().filter(|name| file.file_stem().unwrap().to_str().unwrap() != *name) {
            assert!(!text.contains(&format!("{name}::")), "{} uses adapter `{name}`", file.display());
        }
    }
}

/// A promise whose test was renamed or removed is a promise that nobody keeps.
#[test]
fn every_test_that_a_document_names_is_there() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    let all: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let mut named = 0;
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for row in text.lines().filter(|line| line.starts_with('|')) {
            let Some(last) = row.trim_end_matches(['|', ' ']).rsplit('|').next() else { continue };
            let words = last.split('`').skip(1).step_by(2);
            // Variables are upper case.
            let tests = words
                .filter(|word| word.matches('_').count() >= 3 && !word.contains('…'))
                .filter(|word| !word.contains(|c: char| c.is_ascii_uppercase()));
            for word in tests {
                assert!(
                    all.contains(&format!("fn {word}(")),
                    "{document} names {word}, and there is no such test"
                );
                named += 1;
            }
        }
    }
    assert!(named > 50, "{named}");
}
