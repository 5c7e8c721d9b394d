//! The examples: every command line of theirs is one that this program takes.

use crate::support::{Lab, root};

/// Returns every text in a YAML document, with lists of words joined to one line.
fn texts(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => into.push(text.clone()),
        serde_json::Value::Array(items) if items.iter().all(serde_json::Value::is_string) => {
            into.push(items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(" "));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        serde_json::Value::Object(items) => items.values().for_each(|item| texts(item, into)),
        _ => {}
    }
}

#[test]
fn every_command_of_the_examples_is_understood() {
    let mut lab = Lab::new("examples", "");
    // Without credentials a cloud is not asked: what is understood is all that counts.
    lab.set("HOME", lab.path().join("home").to_str().unwrap());
    for (name, value) in [
        ("LANE_KEYRING", "none"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("GCE_METADATA_HOST", "127.0.0.1:9"),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9"),
    ] {
        lab.set(name, value);
    }
    let mut seen = 0;
    for file in std::fs::read_dir(root().join("examples")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let document: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        let mut all = vec![];
        texts(&document, &mut all);
        for line in
            all.iter().flat_map(|text| text.lines()).filter_map(|line| line.trim().strip_prefix("lane "))
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ran = lab.run(&words);
            assert_ne!(ran.code, 64, "{}: lane {line}\n{}", path.display(), ran.stderr);
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}
