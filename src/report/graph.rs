//! A plan's graph as text, Graphviz or Mermaid. Lays nothing out that those do themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::{Action, DependencyKind, Plan, PlannedStep, StepGraph, StepId};

/// Draws layers: a step stands in the first layer in which all that it waits for is done.
pub fn text(plan: &Plan) -> String {
    let drawing = Drawing::of(plan);
    let width = drawing.steps.keys().map(|id| id.as_str().chars().count()).max().unwrap_or_default();
    let mut layer_of: BTreeMap<&StepId, usize> = BTreeMap::new();
    let mut layers: Vec<Vec<&StepId>> = Vec::new();
    for id in &drawing.order {
        let layer =
            drawing.before(id).filter_map(|before| layer_of.get(before)).max().map_or(0, |layer| layer + 1);
        layer_of.insert(id, layer);
        if layers.len() == layer {
            layers.push(vec![]);
        }
        layers[layer].push(id);
    }
    let mut text = String::new();
    for (number, ids) in layers.iter_mut().enumerate() {
        ids.sort();
        for (place, id) in ids.iter().enumerate() {
            let number = if place == 0 { (number + 1).to_string() } else { String::new() };
            let before: Vec<&str> = drawing.before(id).map(StepId::as_str).collect();
            let waits = if before.is_empty() { String::new() } else { format!("  <- {}", before.join(", ")) };
            let line = format!("{number:>2}  {:width$}{waits}", id.as_str());
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

/// Draws for Graphviz; a dashed edge only orders, a full one is an input.
pub fn dot(plan: &Plan) -> String {
    let drawing = Drawing::of(plan);
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(&plan.lane));
    for (id, step) in &drawing.steps {
        let style = if step.action.is_change() { "" } else { " [style=dotted]" };
        let _ = writeln!(text, "  {}{style};", quoted(id.as_str()));
    }
    for (before, after) in &drawing.edges {
        let style = if drawing.is_input(before, after) { "" } else { " [style=dashed]" };
        let _ = writeln!(text, "  {} -> {}{style};", quoted(before.as_str()), quoted(after.as_str()));
    }
    text.push_str("}\n");
    text
}

/// Draws for Mermaid, as GitHub shows it; a dotted edge only orders, a full one is an input.
pub fn mermaid(plan: &Plan) -> String {
    let drawing = Drawing::of(plan);
    let node: BTreeMap<&StepId, usize> =
        drawing.steps.keys().enumerate().map(|(number, id)| (id, number)).collect();
    let mut text = "flowchart LR\n".to_owned();
    for (id, number) in &node {
        // Mermaid knows no backslash; it takes entities.
        let label =
            id.as_str().replace('#', "#35;").replace('"', "#quot;").replace('<', "#lt;").replace('>', "#gt;");
        let _ = writeln!(text, "  s{number}[\"{label}\"]");
    }
    for (before, after) in &drawing.edges {
        let arrow = if drawing.is_input(before, after) { "-->" } else { "-.->" };
        let _ = writeln!(text, "  s{} {arrow} s{}", node[before], node[after]);
    }
    text
}

struct Drawing<'a> {
    steps: BTreeMap<StepId, &'a PlannedStep>,
    order: Vec<StepId>,
    edges: Vec<(StepId, StepId)>,
}

impl<'a> Drawing<'a> {
    fn of(plan: &'a Plan) -> Self {
        let steps: BTreeMap<StepId, &PlannedStep> = plan
            .steps
            .iter()
            .filter(|step| step.action != Action::Forget)
            .map(|step| (step.id.clone(), step))
            .collect();
        // A plan has no circle: planning would have said so. A file that was tampered with is drawn without edges.
        let graph = StepGraph::new(steps.iter().map(|(id, step)| (id, step.depends_on.as_slice())));
        let (order, edges) = match graph {
            Ok(graph) => (graph.order(), graph.edges()),
            Err(_) => (steps.keys().cloned().collect(), vec![]),
        };
        Self { steps, order, edges }
    }

    fn before(&self, id: &StepId) -> impl Iterator<Item = &StepId> {
        self.edges.iter().filter(move |(_, after)| after == id).map(|(before, _)| before)
    }

    fn is_input(&self, before: &StepId, after: &StepId) -> bool {
        self.steps.get(after).is_some_and(|step| {
            let mut on = step.depends_on.iter();
            on.any(|dependency| dependency.on == *before && dependency.kind == DependencyKind::Input)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::Scene;

    #[test]
    fn text_shows_layers() {
        insta::assert_snapshot!(text(&Scene::fresh().plan()));
    }

    #[test]
    fn dot_and_mermaid() {
        let mut scene = Scene::fresh();
        scene.spec.services.clear();
        scene.spec.files.clear();
        scene.spec.probes.retain(|name, _| name.as_str() == "kvm");
        insta::assert_snapshot!("dot", dot(&scene.plan()));
        insta::assert_snapshot!("mermaid", mermaid(&scene.plan()));
    }

    #[test]
    fn hostile_ids_stay_text() {
        let mut plan = Scene::fresh().plan();
        plan.steps.truncate(1);
        plan.steps[0].id = StepId::from_text("file/a\"] --> b\\");
        assert!(dot(&plan).contains(r#"  "file/a\"] --> b\\";"#));
        assert!(mermaid(&plan).contains("s0[\"file/a#quot;] --#gt; b\\\"]"));
    }
}
