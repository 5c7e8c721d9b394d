//! From what was written to what is meant: defaults, absolute paths. Finds no fault any more.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::model::{
    Access, AllowFrom, Build, FileTemplate, KvmNeed, Lease, LocalFile, Name, Probe, ProbeKind, ProviderSpec,
    Run, Secret, Service, Source, Spec, Timeouts,
};
use super::raw::{RawAllowFrom, RawProbe, RawSpec, RawTimeouts, Table};
use super::source_map::SourceMap;
use super::text::{HostPath, Limit, LocalPath, NameText, OutputPath, ServiceName, VarName, VarValue};
use crate::plan::Digest;
use crate::provider::{DEFAULT_DISK, Entry, Region, Sku};
use crate::world::World;

const TTL: Duration = Duration::from_hours(2);
const USER: &str = "mvm";
const SECRET_BYTES: u32 = 32;
const STABLE_FOR: Duration = Duration::from_secs(2);

/// Fills defaults in and makes paths absolute against the spec's folder.
pub(super) fn resolve(world: &World, source_map: SourceMap, raw: RawSpec, entry: &Entry) -> Spec {
    let folder = source_map.path().parent().unwrap_or_else(|| Path::new("/")).to_owned();
    let file = |written: &LocalPath, key: String| LocalFile {
        path: world.absolute(&written.0, &folder),
        written: written.0.clone(),
        key,
    };
    let mut config = raw.provider.0;
    config.remove("name");
    let region = config.get(entry.region_key).and_then(serde_json::Value::as_str);
    let region = region.map_or_else(|| entry.default_region.clone(), Region::new);

    Spec {
        digest: Digest::of(source_map.text().as_bytes()),
        name: raw.name.0,
        provider: ProviderSpec { name: entry.name.to_owned(), config: config.into() },
        sku: raw.sku.map_or_else(|| entry.default_sku.clone(), |sku| Sku::new(sku.0)),
        region,
        image: raw.image.map_or_else(|| entry.default_image.to_owned(), |image| image.0),
        disk_bytes: raw.disk.map_or(DEFAULT_DISK, |size| size.0),
        kvm: raw.kvm.unwrap_or(KvmNeed::Required),
        lease: Lease {
            ttl: raw.lease.ttl.map_or(TTL, |ttl| ttl.0),
            max_spend: raw.lease.max_spend.map(|amount| amount.0),
        },
        price: raw.price.map(|amount| amount.0),
        access: Access {
            user: raw.access.user.map_or_else(|| USER.to_owned(), |user| user.0),
            allow_from: match raw.access.allow_from {
                None | Some(RawAllowFrom::Auto) => AllowFrom::Auto,
                Some(RawAllowFrom::Cidrs(list)) => {
                    AllowFrom::Cidrs(list.into_iter().map(|cidr| cidr.0).collect())
                }
            },
            authorized_keys: raw.access.authorized_keys.into_iter().map(|key| key.0).collect(),
        },
        cloud_init: raw.cloud_init.map(|path| file(&path, "cloud_init".to_owned())),
        sources: table(
            raw.sources,
            |name: &NameText| name.0.clone(),
            |name, source| Source {
                folder: file(&source.path, format!("sources.{}.path", name.0)),
                to: source.to.0,
                exclude: source.exclude.into_iter().map(|line| line.0).collect(),
            },
        ),
        build: table(
            raw.build,
            |name: &NameText| name.0.clone(),
            |_, build| Build {
                command: run(build.in_source, build.run.0, build.env, build.timeout),
                install: table(build.install, |from: &OutputPath| from.0.clone(), |_, to: HostPath| to.0),
                needs: build.needs.into_iter().map(|name| name.0).collect(),
            },
        ),
        secrets: table(
            raw.secrets,
            |name: &NameText| name.0.clone(),
            |_, secret| Secret { generate: secret.generate, bytes: secret.bytes.unwrap_or(SECRET_BYTES) },
        ),
        files: table(
            raw.files,
            |path: &HostPath| path.0.clone(),
            |path, template| FileTemplate {
                template: file(&template.template, format!("files.{}.template", path.0)),
                mode: template.mode.map_or(0o644, |mode| mode.0),
                owner: template.owner.map_or_else(|| "root:root".to_owned(), |owner| owner.0),
            },
        ),
        services: table(
            raw.services,
            |name: &ServiceName| name.0.clone(),
            |name, service| Service {
                unit: file(&service.unit, format!("services.{}.unit", name.0)),
                after: names(service.after),
                needs: service.needs.into_iter().map(|path| path.0).collect(),
                env: env(service.env),
                stable_for: service.stable_for.map_or(STABLE_FOR, |period| period.0),
            },
        ),
        probes: gated(
            table(raw.probes, |name: &NameText| name.0.clone(), |_, raw| probe(raw)),
            raw.kvm.unwrap_or(KvmNeed::Required),
        ),
        smoke: raw.smoke.map(|smoke| run(smoke.in_source, smoke.run.0, smoke.env, smoke.timeout)),
        tests: raw.tests.map(|tests| Run {
            junit: tests.junit.map(|path| path.0),
            ..run(tests.in_source, tests.run.0, tests.env, tests.timeout)
        }),
        timeouts: timeouts(raw.timeouts, entry),
        source_map,
    }
}

fn table<K: Ord, V, A: Ord, B>(
    table: Table<K, V>,
    key: impl Fn(&K) -> A,
    value: impl Fn(&K, V) -> B,
) -> BTreeMap<A, B> {
    table.0.into_iter().map(|(name, raw)| (key(&name), value(&name, raw))).collect()
}

fn env(raw: Table<VarName, VarValue>) -> BTreeMap<String, String> {
    table(raw, |name| name.0.clone(), |_, value| value.0)
}

fn names(raw: Vec<ServiceName>) -> Vec<Name> {
    raw.into_iter().map(|name| name.0).collect()
}

fn run(
    in_source: Option<NameText>,
    command: String,
    variables: Table<VarName, VarValue>,
    timeout: Option<Limit>,
) -> Run {
    Run {
        in_source: in_source.map(|name| name.0),
        run: command,
        env: env(variables),
        junit: None,
        timeout: timeout.map(|limit| limit.0),
    }
}

fn probe(raw: RawProbe) -> Probe {
    let (kind, needs, timeout) = match raw {
        RawProbe::Kvm { timeout } => (ProbeKind::Kvm, vec![], timeout),
        RawProbe::Seccomp { timeout } => (ProbeKind::Seccomp, vec![], timeout),
        RawProbe::Http { url, expect, contains, needs, timeout } => {
            let contains = contains.map(|text| text.0);
            (ProbeKind::Http { url: url.0, expect: expect.unwrap_or(200), contains }, needs, timeout)
        }
        RawProbe::Tcp { address, needs, timeout } => (ProbeKind::Tcp { address: address.0 }, needs, timeout),
        RawProbe::Unix { path, needs, timeout } => (ProbeKind::Unix { path: path.0 }, needs, timeout),
        RawProbe::Command { run: command, in_source, env, needs, timeout } => {
            (ProbeKind::Command { command: run(in_source, command.0, env, None) }, needs, timeout)
        }
        RawProbe::Systemd { unit, needs, timeout } => (ProbeKind::Systemd { unit: unit.0 }, needs, timeout),
    };
    Probe { kind, needs: names(needs), timeout: timeout.map(|limit| limit.0) }
}

/// `kvm: required` is a promise, so it is probed even where the spec asks for no probe.
fn gated(mut probes: BTreeMap<Name, Probe>, need: KvmNeed) -> BTreeMap<Name, Probe> {
    let asked = probes.values().any(|probe| probe.kind == ProbeKind::Kvm);
    let free = ["kvm", "kvm-required"].into_iter().filter_map(|name| Name::new(name).ok());
    if need == KvmNeed::Required
        && !asked
        && let Some(name) = free.into_iter().find(|name| !probes.contains_key(name))
    {
        probes.insert(name, Probe { kind: ProbeKind::Kvm, needs: vec![], timeout: None });
    }
    probes
}

fn timeouts(raw: RawTimeouts, entry: &Entry) -> Timeouts {
    let minutes =
        |limit: Option<Limit>, default: u64| limit.map_or(Duration::from_secs(default * 60), |limit| limit.0);
    Timeouts {
        provision: raw.provision.map_or(entry.provision_timeout, |limit| limit.0),
        ssh: minutes(raw.ssh, 5),
        cloud_init: minutes(raw.cloud_init, 20),
        sync: minutes(raw.sync, 10),
        build: minutes(raw.build, 30),
        service: minutes(raw.service, 1),
        probe: raw.probe.map_or(Duration::from_secs(30), |limit| limit.0),
        smoke: minutes(raw.smoke, 10),
        tests: minutes(raw.tests, 60),
        destroy: minutes(raw.destroy, 15),
    }
}
