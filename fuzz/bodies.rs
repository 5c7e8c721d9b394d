//! What each fuzz target does with its input; the tests feed the same functions with the seeds and changes of them.
#![allow(dead_code, reason = "each target uses one of them")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lane::apply::steps::judge_cloud_init;
use lane::provider::Lineage;
use lane::report::{graph, plan_json, plan_text};
use lane::spec::load_text;
use lane::state::{Record, read_journal, read_plan, read_record, replay};
use lane::world::{SystemClock, World};

/// Whatever a host answers about cloud-init is an outcome or an error.
pub(crate) fn cloud_init_status(bytes: &[u8]) {
    match judge_cloud_init(bytes) {
        Ok(outcome) => drop(outcome),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Any bytes are a journal or an error that names the line; whatever a journal says can be replayed.
pub(crate) fn journal(bytes: &[u8]) {
    let file = Path::new("journal.jsonl");
    match read_journal(file, bytes) {
        Ok(entries) => {
            let mut record = Record::new("demo", Lineage::fixed("lineage"));
            replay(&mut record, &entries);
            let lines: Vec<String> = entries
                .iter()
                .map(|entry| serde_json::to_string(entry).expect("an entry can be written") + "\n")
                .collect();
            let again = read_journal(file, lines.concat().as_bytes()).expect("what was written can be read");
            assert_eq!(again, entries);
            // A line that is cut short takes nothing of what stands before it.
            let cut = lines.concat();
            if let Some(cut) = cut.len().checked_sub(2).and_then(|end| cut.as_bytes().get(..end)) {
                let before = read_journal(file, cut).expect("a torn end is no damage");
                assert_eq!(before, entries[..entries.len() - 1]);
            }
        }
        Err(error) => assert!(error.way_out().is_some(), "{error}"),
    }
}

/// Any bytes are a plan or an error; what a plan shows cannot move the cursor.
pub(crate) fn plan_file(bytes: &[u8]) {
    match read_plan(Path::new("plan.json"), bytes) {
        Ok(plan) => {
            assert!(!plan_text::render(&plan, false, true).contains('\u{1b}'));
            drop(plan_text::render(&plan, true, false));
            drop(plan_json::to_json(&plan).to_string());
            drop((graph::text(&plan), graph::dot(&plan), graph::mermaid(&plan)));
        }
        Err(error) => assert!(error.way_out().is_some(), "{error}"),
    }
}

/// Any text is a spec or a list of complaints, never a panic.
pub(crate) fn spec_load(text: &str) {
    let world = World::fixed(Arc::new(SystemClock), BTreeMap::new(), PathBuf::from("/"));
    match load_text(&world, Path::new("fuzz.yaml"), text) {
        Ok(spec) => {
            // A complaint may be made about any file that the spec names.
            for source in spec.sources.values() {
                drop(spec.source_map.complaint(&source.folder.key, "not there", None).render(false));
            }
        }
        Err(error) => {
            let plain = error.render(false);
            assert!(!plain.is_empty() && !plain.contains('\u{1b}'));
            drop(error.render(true));
        }
    }
}

/// Any bytes are a record or an error that says what to do, and a record is written as it was read.
pub(crate) fn state_record(bytes: &[u8]) {
    let file = Path::new("state.json");
    match read_record(file, bytes) {
        Ok(record) => {
            let written = serde_json::to_vec_pretty(&record).expect("a record can be written");
            assert_eq!(read_record(file, &written).expect("what was written can be read"), record);
            drop(record.label().to_string());
        }
        Err(error) => assert!(error.way_out().is_some(), "{error}"),
    }
}
