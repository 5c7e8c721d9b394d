//! Steps and what waits for what. Runs nothing and decides nothing about a step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use petgraph::algo::tred::{dag_to_toposorted_adjacency_list, dag_transitive_reduction_closure};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::IntoNeighbors;

use super::{Dependency, StepId};

/// Steps that wait for each other in a circle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleError {
    /// The whole circle: each waits for the one after it, the last for the first.
    pub steps: Vec<StepId>,
}

impl fmt::Display for CycleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("steps wait for each other: ")?;
        for step in &self.steps {
            write!(f, "{step} -> ")?;
        }
        match self.steps.first() {
            Some(first) => write!(f, "{first}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CycleError {}

/// A graph without circles; the same steps give the same graph, in whatever order they come.
#[derive(Debug, Clone)]
pub struct StepGraph {
    /// An edge goes from what is done before to what waits for it.
    graph: DiGraph<StepId, ()>,
    nodes: BTreeMap<StepId, NodeIndex>,
    order: Vec<NodeIndex>,
}

impl StepGraph {
    /// Builds the graph; a dependency on a step that is not among them is left out.
    pub fn new<'a>(steps: impl Iterator<Item = (&'a StepId, &'a [Dependency])>) -> Result<Self, CycleError> {
        let steps: BTreeMap<&StepId, &[Dependency]> = steps.collect();
        let mut graph = DiGraph::with_capacity(steps.len(), 0);
        let nodes: BTreeMap<StepId, NodeIndex> =
            steps.keys().map(|&id| (id.clone(), graph.add_node(id.clone()))).collect();
        for (id, dependencies) in &steps {
            for before in dependencies.iter().filter_map(|dependency| nodes.get(&dependency.on)) {
                graph.update_edge(*before, nodes[*id], ());
            }
        }
        let order = sort(&graph);
        if order.len() < graph.node_count() {
            return Err(CycleError { steps: circle(&graph) });
        }
        Ok(Self { graph, nodes, order })
    }

    /// Returns all steps, each after what it waits for, ties by id.
    pub fn order(&self) -> Vec<StepId> {
        self.order.iter().map(|&node| self.graph[node].clone()).collect()
    }

    /// Returns what waits for a step, directly; sorted.
    pub fn dependents(&self, id: &StepId) -> Vec<StepId> {
        self.neighbours(id, petgraph::Outgoing)
    }

    /// Returns what a step waits for, directly; sorted.
    pub fn dependencies(&self, id: &StepId) -> Vec<StepId> {
        self.neighbours(id, petgraph::Incoming)
    }

    /// Returns the edges (before, after) that no longer way says already; sorted. For drawings.
    pub fn edges(&self) -> Vec<(StepId, StepId)> {
        let (list, _) = dag_to_toposorted_adjacency_list::<_, u32>(&self.graph, &self.order);
        let (reduction, _) = dag_transitive_reduction_closure(&list);
        let id = |rank: u32| self.graph[self.order[rank as usize]].clone();
        let ranks = (0..).take(self.order.len());
        let mut edges: Vec<(StepId, StepId)> = ranks
            .flat_map(|from| reduction.neighbors(from).map(move |to| (from, to)))
            .map(|(from, to)| (id(from), id(to)))
            .collect();
        edges.sort();
        edges
    }

    /// Returns the steps that may start now: neither done nor started, and all before them done; sorted.
    pub fn ready(&self, done: &BTreeSet<StepId>, started: &BTreeSet<StepId>) -> Vec<StepId> {
        let is_ready = |(id, node): &(&StepId, &NodeIndex)| {
            !done.contains(*id)
                && !started.contains(*id)
                && self
                    .graph
                    .neighbors_directed(**node, petgraph::Incoming)
                    .all(|before| done.contains(&self.graph[before]))
        };
        self.nodes.iter().filter(is_ready).map(|(id, _)| id.clone()).collect()
    }

    fn neighbours(&self, id: &StepId, direction: petgraph::Direction) -> Vec<StepId> {
        let Some(&node) = self.nodes.get(id) else { return vec![] };
        let mut ids: Vec<StepId> =
            self.graph.neighbors_directed(node, direction).map(|other| self.graph[other].clone()).collect();
        ids.sort();
        ids
    }
}

/// Kahn's sort, ties by node (nodes are in the order of their ids); shorter than the graph if there is a circle.
fn sort(graph: &DiGraph<StepId, ()>) -> Vec<NodeIndex> {
    let mut waiting: Vec<usize> =
        graph.node_indices().map(|node| graph.neighbors_directed(node, petgraph::Incoming).count()).collect();
    let mut free: BTreeSet<NodeIndex> =
        graph.node_indices().filter(|node| waiting[node.index()] == 0).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(node) = free.pop_first() {
        order.push(node);
        for after in graph.neighbors(node) {
            waiting[after.index()] -= 1;
            if waiting[after.index()] == 0 {
                free.insert(after);
            }
        }
    }
    order
}

/// Finds the shortest circle through the first step that is in one.
fn circle(graph: &DiGraph<StepId, ()>) -> Vec<StepId> {
    let start = petgraph::algo::tarjan_scc(graph)
        .into_iter()
        .filter(|part| part.len() > 1 || part.iter().any(|&node| graph.contains_edge(node, node)))
        .flatten()
        .min();
    let Some(start) = start else { return vec![] };
    // Against the edges, so that each step is followed by what it waits for.
    let mut came_from: BTreeMap<NodeIndex, NodeIndex> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        let mut before: Vec<NodeIndex> = graph.neighbors_directed(node, petgraph::Incoming).collect();
        before.sort();
        for other in before {
            if other == start {
                let mut steps = vec![graph[node].clone()];
                let mut at = node;
                while at != start {
                    at = came_from[&at];
                    steps.push(graph[at].clone());
                }
                steps.reverse();
                return steps;
            }
            came_from.entry(other).or_insert_with(|| {
                queue.push_back(other);
                node
            });
        }
    }
    vec![]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::DependencyKind;

    fn id(text: &str) -> StepId {
        StepId::from_text(text)
    }

    fn steps(edges: &[(&str, &[&str])]) -> BTreeMap<StepId, Vec<Dependency>> {
        let on = |text: &&str| Dependency { on: id(text), kind: DependencyKind::Order };
        edges.iter().map(|(step, before)| (id(step), before.iter().map(on).collect())).collect()
    }

    fn graph(edges: &[(&str, &[&str])]) -> Result<StepGraph, CycleError> {
        let steps = steps(edges);
        StepGraph::new(steps.iter().map(|(id, before)| (id, before.as_slice())))
    }

    fn texts(ids: &[StepId]) -> Vec<&str> {
        ids.iter().map(StepId::as_str).collect()
    }

    #[test]
    fn order_goes_by_dependency_then_by_id() {
        let graph = graph(&[("a", &["z"]), ("b", &[]), ("z", &[]), ("c", &["a", "elsewhere"])]).unwrap();
        assert_eq!(texts(&graph.order()), ["b", "z", "a", "c"]);
        assert_eq!(texts(&graph.dependencies(&id("c"))), ["a"]);
        assert_eq!(texts(&graph.dependents(&id("z"))), ["a"]);
        assert_eq!(texts(&graph.dependents(&id("unknown"))), Vec::<&str>::new());
    }

    #[test]
    fn a_cycle_is_named_as_a_whole_and_nothing_else_with_it() {
        let error =
            graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("d", &["a"]), ("e", &[])]).unwrap_err();
        assert_eq!(texts(&error.steps), ["a", "b", "c"]);
        assert_eq!(error.to_string(), "steps wait for each other: a -> b -> c -> a");
        let alone = graph(&[("a", &["a"]), ("b", &["a"])]).unwrap_err();
        assert_eq!(alone.to_string(), "steps wait for each other: a -> a");
    }

    #[test]
    fn edges_leave_out_what_a_longer_way_says() {
        let graph = graph(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])]).unwrap();
        assert_eq!(graph.edges(), [(id("a"), id("b")), (id("b"), id("c"))]);
    }

    #[test]
    fn ready_needs_everything_before_to_be_done() {
        let graph = graph(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"]), ("d", &[])]).unwrap();
        let set = |texts: &[&str]| texts.iter().map(|text| id(text)).collect::<BTreeSet<_>>();
        assert_eq!(texts(&graph.ready(&set(&[]), &set(&[]))), ["a", "d"]);
        assert_eq!(texts(&graph.ready(&set(&[]), &set(&["a", "d"]))), Vec::<&str>::new());
        assert_eq!(texts(&graph.ready(&set(&["a"]), &set(&["d"]))), ["b"]);
    }

    proptest! {
        #[test]
        fn any_graph_is_sorted_or_has_a_real_cycle(edges in prop::collection::vec((0u8..12, 0u8..12), 0..40)) {
            let mut all: BTreeMap<StepId, Vec<Dependency>> = BTreeMap::new();
            for (step, before) in edges {
                let on = Dependency { on: id(&before.to_string()), kind: DependencyKind::Input };
                all.entry(id(&before.to_string())).or_default();
                all.entry(id(&step.to_string())).or_default().push(on);
            }
            let waits = |step: &StepId, on: &StepId| all[step].iter().any(|dependency| dependency.on == *on);
            match StepGraph::new(all.iter().map(|(id, before)| (id, before.as_slice()))) {
                Ok(graph) => {
                    let order = graph.order();
                    prop_assert_eq!(order.len(), all.len());
                    let rank = |id: &StepId| order.iter().position(|other| other == id);
                    for (step, before) in &all {
                        for dependency in before {
                            prop_assert!(rank(&dependency.on) < rank(step));
                        }
                    }
                    for (before, after) in graph.edges() {
                        prop_assert!(waits(&after, &before));
                    }
                }
                Err(error) => {
                    let after = error.steps.iter().cycle().skip(1);
                    for (step, on) in error.steps.iter().zip(after) {
                        prop_assert!(waits(step, on));
                    }
                    prop_assert!(!error.steps.is_empty());
                }
            }
        }
    }
}
