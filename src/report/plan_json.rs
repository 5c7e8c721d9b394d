//! A plan for machines. Its form is stable under `format_version`.

use serde_json::{Map, Value, json};

use super::reason;
use crate::plan::Plan;

/// Returns a plan as JSON: all that the plan holds, each step with its reasons in words (`why`), and counts by action.
pub fn to_json(plan: &Plan) -> Value {
    let mut value = serde_json::to_value(plan).unwrap_or_default();
    if let Some(steps) = value.get_mut("steps").and_then(Value::as_array_mut) {
        for (shown, step) in steps.iter_mut().zip(&plan.steps) {
            shown["why"] = json!(reason::lines(&step.reasons));
        }
    }
    let mut counts = Map::new();
    for step in &plan.steps {
        if let Ok(Value::String(action)) = serde_json::to_value(step.action) {
            let count = counts.get(&action).and_then(Value::as_u64).unwrap_or_default();
            counts.insert(action, json!(count + 1));
        }
    }
    counts.sort_keys();
    value["counts"] = Value::Object(counts);
    value["has_changes"] = json!(!plan.is_empty());
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::Scene;

    #[test]
    fn json_holds_the_whole_plan_and_says_why() {
        let mut scene = Scene::applied();
        scene.edit_tree("suite", &[("run-tests.sh", "exit 1")]);
        let plan = scene.plan();
        let mut json = to_json(&plan);
        assert_eq!(json["format_version"], 1);
        assert_eq!(json["counts"], json!({"no_op": 17, "rerun": 1, "update": 1}));
        assert_eq!(json["has_changes"], true);
        let steps = json["steps"].as_array_mut().unwrap();
        let sync = steps.iter().find(|step| step["id"] == "sync/suite").unwrap();
        assert_eq!(sync["why"], json!(["1 file changed: run-tests.sh"]));
        insta::assert_json_snapshot!(sync);
        // What was added aside, it reads back as the plan that it was.
        let map = json.as_object_mut().unwrap();
        assert!(map.remove("counts").is_some() && map.remove("has_changes").is_some());
        assert_eq!(serde_json::from_value::<Plan>(json).unwrap(), plan);
    }
}
