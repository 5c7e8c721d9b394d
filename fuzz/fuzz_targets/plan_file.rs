//! Any bytes are a plan or an error; what a plan shows cannot move the cursor.
#![no_main]

use std::path::Path;

use lane::report::{graph, plan_json, plan_text};
use lane::state::read_plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match read_plan(Path::new("plan.json"), bytes) {
        Ok(plan) => {
            assert!(!plan_text::render(&plan, false, true).contains('\u{1b}'));
            let _ = plan_text::render(&plan, true, false);
            let _ = plan_json::to_json(&plan).to_string();
            let _ = (graph::text(&plan), graph::dot(&plan), graph::mermaid(&plan));
        }
        Err(error) => assert!(error.way_out().is_some(), "{error}"),
    }
});
