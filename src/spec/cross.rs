//! Checks across keys: references, cycles, two things at one path, KVM against SKU.
//!
//! Works on the tree and steps over what the walk has refused, so that both kinds of complaint come at once.

use std::collections::BTreeMap;
use std::ops::Range;

use super::env::check_env;
use super::source_map::{Complaint, SourceMap};
use super::tree::{Node, Value};
use super::walk::meant;
use crate::provider::{self, KvmSupport};

/// Returns every complaint that takes more than one key to see.
pub(super) fn cross(map: &SourceMap, tree: &Node) -> Vec<Complaint> {
    let mut cross = Cross { map, tree, complaints: Vec::new() };
    cross.references();
    cross.cycles();
    cross.kvm();
    cross.host_paths();
    cross.source_targets();
    cross.regions();
    for section in tree.entries() {
        let named = !matches!(section.key.as_str(), "smoke" | "tests");
        cross.variables(&section.node, section.key == "provider", usize::from(named));
    }
    cross.complaints
}

struct Cross<'a> {
    map: &'a SourceMap,
    tree: &'a Node,
    complaints: Vec<Complaint>,
}

impl<'a> Cross<'a> {
    fn complain(&mut self, span: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.complaints.push(self.map.at(span, message, help));
    }

    /// Returns the entries of a table of the spec, of duplicates the first.
    fn table(&self, section: &str) -> BTreeMap<&'a str, &'a Node> {
        let mut table = BTreeMap::new();
        for entry in self.tree.get(section).map(Node::entries).unwrap_or_default() {
            table.entry(entry.key.as_str()).or_insert(&entry.node);
        }
        table
    }

    fn reference(&mut self, section: &str, noun: &str, node: &Node) {
        let (Some(name), known) = (node.text(), self.table(section)) else { return };
        if !known.contains_key(name) {
            let help = meant(name, known.keys().copied())
                .unwrap_or_else(|| format!("there is nothing under `{section}`"));
            self.complain(&node.span, format!("no {noun} is called `{name}`"), Some(help));
        }
    }

    fn references(&mut self) {
        for build in self.table("build").into_values() {
            build.get("in").into_iter().for_each(|node| self.reference("sources", "source", node));
            for node in build.get("needs").map(Node::items).unwrap_or_default() {
                self.reference("sources", "source", node);
            }
        }
        for service in self.table("services").into_values() {
            for node in service.get("after").map(Node::items).unwrap_or_default() {
                self.reference("services", "service", node);
            }
            for node in service.get("needs").map(Node::items).unwrap_or_default() {
                self.reference("files", "file", node);
            }
        }
        for probe in self.table("probes").into_values() {
            probe.get("in").into_iter().for_each(|node| self.reference("sources", "source", node));
            for node in probe.get("needs").map(Node::items).unwrap_or_default() {
                self.reference("services", "service", node);
            }
        }
        for section in ["smoke", "tests"] {
            if let Some(node) = self.tree.get(section).and_then(|section| section.get("in")) {
                self.reference("sources", "source", node);
            }
        }
    }

    fn cycles(&mut self) {
        let services = self.table("services");
        let mut graph = petgraph::graph::DiGraph::<&str, ()>::new();
        let index: BTreeMap<&str, _> = services.keys().map(|name| (*name, graph.add_node(*name))).collect();
        for (name, service) in &services {
            for after in
                service.get("after").map(Node::items).unwrap_or_default().iter().filter_map(Node::text)
            {
                if let (Some(&from), Some(&to)) = (index.get(name), index.get(after)) {
                    graph.update_edge(from, to, ());
                }
            }
        }
        for component in petgraph::algo::tarjan_scc(&graph) {
            let start = component.iter().copied().min_by_key(|&node| graph[node]);
            let Some(start) = start.filter(|&start| component.len() > 1 || graph.contains_edge(start, start))
            else {
                continue;
            };
            // Each node of a component leads to another one of it, so that this walk has to come back.
            let mut way = vec![start];
            let closing = loop {
                let here = way.last().copied().unwrap_or(start);
                let next = graph
                    .neighbors(here)
                    .filter(|next| component.contains(next))
                    .min_by_key(|&next| graph[next]);
                let next = next.unwrap_or(start);
                if let Some(at) = way.iter().position(|&seen| seen == next) {
                    break at;
                }
                way.push(next);
            };
            let cycle = way.split_off(closing);
            let names: Vec<String> =
                cycle.iter().chain(cycle.first()).map(|&node| format!("`{}`", graph[node])).collect();
            let first = cycle.first().map_or("", |&node| graph[node]);
            let message = if cycle.len() == 1 {
                format!("service {} is started after itself", names.first().map_or("", String::as_str))
            } else {
                format!("these services wait for each other: {}", names.join(" after "))
            };
            let span = services.get(first).and_then(|service| {
                service
                    .entries()
                    .iter()
                    .find(|entry| entry.key == "after")
                    .map(|entry| entry.key_span.clone())
            });
            self.complain(&span.unwrap_or(0..0), message, Some("take one `after` out".to_owned()));
        }
    }

    fn kvm(&mut self) {
        let need = self.tree.get("kvm").and_then(Node::text).unwrap_or("required");
        if need == "none" {
            for probe in self.table("probes").into_values() {
                if let Some(kind) = probe.get("kind").filter(|kind| kind.text() == Some("kvm")) {
                    let help = "take the probe out, or write `kvm: optional`".to_owned();
                    self.complain(&kind.span, "a `kvm` probe in a lane with `kvm: none`", Some(help));
                }
            }
        }
        let provider = self.tree.get("provider").and_then(|provider| provider.get("name"));
        let Some((place, entry)) = provider.and_then(|name| Some((name, provider::by_name(name.text()?)?)))
        else {
            return;
        };
        let sku = self.tree.get("sku");
        let chosen = sku.and_then(Node::text).map_or_else(|| entry.default_sku.clone(), provider::Sku::new);
        if need == "required" && (entry.kvm)(&chosen) == KvmSupport::No {
            let message = format!("`{chosen}` of {} has no KVM, and `kvm` is `required`", entry.name);
            let help = "take another `sku`, or write `kvm: optional` or `kvm: none`".to_owned();
            self.complain(&sku.unwrap_or(place).span, message, Some(help));
        }
    }

    fn host_paths(&mut self) {
        let mut taken: BTreeMap<String, (Range<usize>, String)> = BTreeMap::new();
        let mut claims: Vec<(String, Range<usize>, String)> = Vec::new();
        for (name, build) in self.table("build") {
            for entry in build.get("install").map(Node::entries).unwrap_or_default() {
                if let Some(path) = entry.node.text() {
                    claims.push((path.to_owned(), entry.node.span.clone(), format!("build `{name}`")));
                }
            }
        }
        for entry in self.tree.get("files").map(Node::entries).unwrap_or_default() {
            claims.push((entry.key.clone(), entry.key_span.clone(), "`files`".to_owned()));
        }
        for entry in self.tree.get("services").map(Node::entries).unwrap_or_default() {
            let path = format!("/etc/systemd/system/{}.service", entry.key);
            claims.push((path, entry.key_span.clone(), format!("the unit of service `{}`", entry.key)));
        }
        claims.sort_by_key(|(_, span, _)| span.start);
        for (path, span, who) in claims {
            match taken.get(&path) {
                // A repeated key is the walk's complaint.
                Some((_, earlier)) if *earlier == who && !who.starts_with("build") => {}
                Some((first, earlier)) => {
                    let line = self.map.at(first, "", None).line;
                    let help = format!("{earlier} on line {line} puts one there");
                    self.complain(&span, format!("`{path}` is installed twice"), Some(help));
                }
                None => {
                    taken.insert(path, (span, who));
                }
            }
        }
    }

    /// A sync removes what is not in the source, so that a source may not lie over anything else.
    fn source_targets(&mut self) {
        let user = self
            .tree
            .get("access")
            .and_then(|access| access.get("user"))
            .and_then(Node::text)
            .unwrap_or("mvm");
        let home = format!("/home/{user}");
        let targets: Vec<(&str, &str, &Node)> = self
            .table("sources")
            .into_iter()
            .filter_map(|(name, source)| source.get("to").and_then(|to| Some((name, to.text()?, to))))
            .filter(|(_, path, _)| path.starts_with('/') && *path != "/")
            .collect();
        for (index, (name, path, node)) in targets.iter().enumerate() {
            if contains(path, &home) || path.matches('/').count() == 1 {
                let message = format!("a sync to `{path}` would remove everything else in it");
                self.complain(&node.span, message, Some(format!("for example `{home}/{name}`")));
            }
            for (other, other_path, other_node) in targets.iter().skip(index + 1) {
                if contains(path, other_path) || contains(other_path, path) {
                    let message =
                        format!("sources `{name}` and `{other}` lie in each other: `{path}`, `{other_path}`");
                    let later = if node.span.start > other_node.span.start { node } else { other_node };
                    self.complain(
                        &later.span,
                        message,
                        Some("each sync would remove the other's files".to_owned()),
                    );
                }
            }
        }
    }

    fn regions(&mut self) {
        let Some(provider) = self.tree.get("provider") else { return };
        let Some(entry) = provider.get("name").and_then(Node::text).and_then(provider::by_name) else {
            return;
        };
        if let Some(region) = provider.get(entry.region_key).filter(|region| region.text() == Some("")) {
            self.complain(&region.span, format!("`{}` is empty", entry.region_key), None);
        }
    }

    /// `${env:…}` is resolved in the provider's keys and in `env`; anywhere else it would stay as it is, unseen.
    /// `names` counts the levels above a section's own keys: below `build` there is a name first.
    fn variables(&mut self, node: &Node, allowed: bool, names: usize) {
        match &node.value {
            Value::Text(text) => {
                let (message, help) = match check_env(text) {
                    Ok(true) if !allowed => (
                        "`${env:…}` is only known in `env` and in the provider's keys".to_owned(),
                        "give the variable by `env:` and write `$NAME`; `$${env:` stands for the text itself",
                    ),
                    Err(message) => (message, "write `${env:NAME}`, or `$${env:` for the text itself"),
                    Ok(_) => return,
                };
                self.complain(&node.span, message, Some(help.to_owned()));
            }
            Value::List(items) => items.iter().for_each(|item| self.variables(item, allowed, names)),
            Value::Map(entries) => {
                // The walk checks the form inside `env`.
                for entry in entries.iter().filter(|entry| entry.key != "env" || names > 0) {
                    self.variables(&entry.node, allowed, names.saturating_sub(1));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Tells whether a path is another or lies below it.
pub(super) fn contains(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
