//! What a user writes. The doc comments are the texts that an editor shows, and the structs are the source of the schema.
//!
//! No default is applied here (see `resolve`) and nothing is checked across keys (see `cross`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::model::{GenerateAs, KvmNeed};
use super::schema::provider_schema;
use super::text::{
    Amount, Block, Cidr, FileMode, HostPath, Limit, LocalPath, NameText, OutputPath, Owner, Pattern, Period,
    PublicKey, ServiceName, Size, SocketAddress, Url, UserName, VarName, VarValue, Word,
};

/// Reads an optional key that, where it is written, has to have a value: an empty one is a slip.
fn written<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A mapping whose keys have a form.
#[derive(Debug)]
pub(super) struct Table<K, V>(pub(super) BTreeMap<K, V>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self)
    }
}

impl<K: JsonSchema, V: JsonSchema> JsonSchema for Table<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("TableOf{}By{}", V::schema_name(), K::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (keys, values) = (generator.subschema_for::<K>(), generator.subschema_for::<V>());
        json_schema!({"type": "object", "propertyNames": keys, "additionalProperties": values})
    }
}

/// A lane: one host that is made, gets sources, builds and services, is tested, and is taken down again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "lane spec")]
pub(super) struct RawSpec {
    /// The format of this file: `1`.
    #[expect(dead_code, reason = "there is one version; reading it is checking it")]
    pub(super) version: Version,
    /// The lane's name: its folder in the state, and part of the host's name in the cloud.
    pub(super) name: NameText,
    /// Where the host comes from, with that provider's own keys.
    pub(super) provider: RawProvider,
    /// Instance type, in the provider's own word. Each provider has a default.
    #[serde(default, deserialize_with = "written")]
    pub(super) sku: Option<Word>,
    /// Image: a plain name such as `ubuntu-24.04`, or the provider's own id. Each provider has a default.
    #[serde(default, deserialize_with = "written")]
    pub(super) image: Option<Word>,
    /// Size of the root disk. Clouds' own defaults of 8 to 10 GB run full in the middle of a build.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "50 GB"))]
    pub(super) disk: Option<Size>,
    /// Whether the host has to have a working `/dev/kvm`.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "RawKvmNeed", extend("default" = "required"))]
    pub(super) kvm: Option<KvmNeed>,
    /// How long the host may live and what it may cost.
    #[serde(default)]
    pub(super) lease: RawLease,
    /// What an hour of the host costs you, where lane's own table of prices (`lane prices`) does not know or is wrong.
    #[serde(default, deserialize_with = "written")]
    pub(super) price: Option<Amount>,
    /// Who gets in, and from where.
    #[serde(default)]
    pub(super) access: RawAccess,
    /// Your own cloud-init file: packages, users, settings of the system. A change replaces the host.
    #[serde(default, deserialize_with = "written")]
    pub(super) cloud_init: Option<LocalPath>,
    /// Folders of this machine that are copied to the host, by name.
    #[serde(default)]
    pub(super) sources: Table<NameText, RawSource>,
    /// Commands that build on the host, and where their outputs go, by name.
    #[serde(default)]
    pub(super) build: Table<NameText, RawBuild>,
    /// Secrets that are made on the host at first use and never leave it, by name. Templates use them as `secrets.<name>`.
    #[serde(default)]
    pub(super) secrets: Table<NameText, RawSecret>,
    /// Files that are rendered to the host from templates, by absolute path there.
    #[serde(default)]
    pub(super) files: Table<HostPath, RawFile>,
    /// systemd services, by unit name without `.service`.
    #[serde(default)]
    pub(super) services: Table<ServiceName, RawService>,
    /// Cheap, repeatable checks that the host is ready, by name.
    #[serde(default)]
    pub(super) probes: Table<NameText, RawProbe>,
    /// One command that proves that the host does its job.
    #[serde(default, deserialize_with = "written")]
    pub(super) smoke: Option<RawRun>,
    /// The test suite that `lane test` and `lane run` run.
    #[serde(default, deserialize_with = "written")]
    pub(super) tests: Option<RawTests>,
    /// How long each kind of step may take.
    #[serde(default)]
    pub(super) timeouts: RawTimeouts,
}

/// The format of a spec.
#[derive(Debug)]
pub(super) struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            other => Err(serde::de::Error::custom(format!("version {other} is not known"))),
        }
    }
}

impl JsonSchema for Version {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "const": 1, "x-lane-help": "this `lane` reads specs of version 1"})
    }
}

/// A provider's name and its own keys, which its adapter describes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct RawProvider(pub(super) serde_json::Map<String, serde_json::Value>);

impl JsonSchema for RawProvider {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Provider".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        provider_schema()
    }
}

/// Whether the host has to have a working `/dev/kvm`.
#[derive(Debug, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "carries the texts of the schema for `KvmNeed`")]
enum RawKvmNeed {
    /// Without it the lane fails, in the first seconds after SSH.
    Required,
    /// How much of it works is reported; the lane goes on without it.
    Optional,
    /// The lane runs without it.
    None,
}

/// How long the host may live and what it may cost.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLease {
    /// From its creation to the moment at which anyone may take the host down.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "2h"))]
    pub(super) ttl: Option<Limit>,
    /// Refuse to create a host that could cost more than this until its lease ends.
    #[serde(default, deserialize_with = "written")]
    pub(super) max_spend: Option<Amount>,
}

/// Who gets in, and from where.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccess {
    /// Login user that `lane` makes on the host; it may use sudo.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "mvm"))]
    pub(super) user: Option<UserName>,
    /// Which addresses the firewall admits to port 22: `auto` (your own address) or a list of networks.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "auto"))]
    pub(super) allow_from: Option<RawAllowFrom>,
    /// More public keys for that user, beside the one that `lane` makes for each lane.
    #[serde(default)]
    pub(super) authorized_keys: Vec<PublicKey>,
}

/// `auto`, or a list of networks.
#[derive(Debug)]
pub(super) enum RawAllowFrom {
    Auto,
    Cidrs(Vec<Cidr>),
}

impl<'de> Deserialize<'de> for RawAllowFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrList(PhantomData<RawAllowFrom>);
        impl<'de> serde::de::Visitor<'de> for AutoOrList {
            type Value = RawAllowFrom;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto` or a list of networks")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawAllowFrom, E> {
                if text == "auto" { Ok(RawAllowFrom::Auto) } else { Err(E::custom("not `auto`")) }
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, items: A) -> Result<RawAllowFrom, A::Error> {
                let list = Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(items))?;
                if list.is_empty() {
                    return Err(serde::de::Error::custom("an empty list"));
                }
                Ok(RawAllowFrom::Cidrs(list))
            }
        }
        deserializer.deserialize_any(AutoOrList(PhantomData))
    }
}

impl JsonSchema for RawAllowFrom {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AllowFrom".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "string", "const": "auto", "x-lane-help": "write `auto`, or a list: `[203.0.113.0/24]`"},
            {
                "type": "array",
                "items": generator.subschema_for::<Cidr>(),
                "minItems": 1,
                "x-lane-help": "an empty list would lock you out; `auto` admits your own address, `[0.0.0.0/0]` everyone",
            },
        ]})
    }
}

/// A folder of this machine, copied to the host. `.gitignore` is honoured.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    /// The folder here; `~` is your home, anything else is relative to the spec's folder.
    pub(super) path: LocalPath,
    /// Where it goes on the host. Files there that are not here are removed, excluded and ignored ones apart.
    pub(super) to: HostPath,
    /// Patterns, as in `.gitignore`, that stay here and are left alone there.
    #[serde(default)]
    pub(super) exclude: Vec<Pattern>,
}

/// A command that builds on the host, and where its outputs go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBuild {
    /// The source to run in; without it, the login user's home.
    #[serde(default, rename = "in", deserialize_with = "written")]
    pub(super) in_source: Option<NameText>,
    /// The shell command, run by `bash -lc` as the login user.
    pub(super) run: Block,
    /// Variables for it. `${env:NAME}` is taken from this machine at the last moment.
    #[serde(default)]
    pub(super) env: Table<VarName, VarValue>,
    /// Outputs, relative to where it runs, and the absolute path on the host that each is installed to.
    #[serde(default)]
    pub(super) install: Table<OutputPath, HostPath>,
    /// More sources whose change runs this build again.
    #[serde(default)]
    pub(super) needs: Vec<NameText>,
    /// How long it may take; the default is `timeouts.build`.
    #[serde(default, deserialize_with = "written")]
    pub(super) timeout: Option<Limit>,
}

/// A secret that is made on the host at first use and never leaves it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSecret {
    /// How its random bytes are written.
    #[schemars(with = "RawGenerateAs")]
    pub(super) generate: GenerateAs,
    /// How many random bytes it holds.
    #[serde(default, deserialize_with = "secret_bytes")]
    #[schemars(range(min = 16, max = 1024), extend("default" = 32))]
    pub(super) bytes: Option<u32>,
}

fn secret_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let bytes = u32::deserialize(deserializer)?;
    if (16..=1024).contains(&bytes) {
        Ok(Some(bytes))
    } else {
        Err(serde::de::Error::custom("16 to 1024 bytes"))
    }
}

/// How a secret's random bytes are written.
#[derive(Debug, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "carries the texts of the schema for `GenerateAs`")]
enum RawGenerateAs {
    /// Lowercase hexadecimal.
    Hex,
    /// Standard base64.
    Base64,
}

/// A file rendered to the host. A change restarts the services that need it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    /// The minijinja template here.
    pub(super) template: LocalPath,
    /// Permission bits, octal and in quotes.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "0644"))]
    pub(super) mode: Option<FileMode>,
    /// `user` or `user:group`.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "root:root"))]
    pub(super) owner: Option<Owner>,
}

/// A systemd service: its unit is installed, enabled, started, and has to stay active.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    /// The unit file here.
    pub(super) unit: LocalPath,
    /// Services that are started before this one.
    #[serde(default)]
    pub(super) after: Vec<ServiceName>,
    /// Paths of `files` whose change restarts it; those that its unit names are found without this.
    #[serde(default)]
    pub(super) needs: Vec<HostPath>,
    /// Variables for it, in a file that only root can read. `${env:NAME}` is taken from this machine at the last moment.
    #[serde(default)]
    pub(super) env: Table<VarName, VarValue>,
    /// How long it has to stay active before it counts as started.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "2s"))]
    pub(super) stable_for: Option<Period>,
}

/// A check that the host is ready, made on the host itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum RawProbe {
    /// A guest runs under `/dev/kvm`. Checked as soon as SSH is up.
    Kvm {
        /// How long it may go on failing; the default is `timeouts.probe`.
        #[serde(default, deserialize_with = "written")]
        timeout: Option<Limit>,
    },
    /// A seccomp filter denies what it should, and nothing else. Checked as soon as SSH is up.
    Seccomp {
        /// How long it may go on failing; the default is `timeouts.probe`.
        #[serde(default, deserialize_with = "written")]
        timeout: Option<Limit>,
    },
    /// An HTTP GET is answered as expected.
    Http {
        /// What is asked, as seen from the host.
        url: Url,
        /// The wanted status.
        #[serde(default, deserialize_with = "http_status")]
        #[schemars(range(min = 100, max = 599), extend("default" = 200))]
        expect: Option<u16>,
        /// A text that the body has to hold.
        #[serde(default, deserialize_with = "written")]
        contains: Option<Block>,
        /// Services that it waits for and runs again with; without it, all.
        #[serde(default)]
        needs: Vec<ServiceName>,
        /// How long it may go on failing; the default is `timeouts.probe`.
        #[serde(default, deserialize_with = "written")]
        timeout: Option<Limit>,
    },
    /// A TCP connection opens.
    Tcp {
        /// `host:port`, as seen from the host.
        address: SocketAddress,
        /// Services that it waits for and runs again with; without it, all.
        #[serde(default)]
        needs: Vec<ServiceName>,
        /// How long it may go on failing; the default is `timeouts.probe`.
        #[serde(default, deserialize_with = "written")]
        timeout: Option<Limit>,
    },
    /// A unix socket takes a connection.
    Unix {
        /// The socket's path on the host.
        path: HostPath,
        /// Services that it waits for and runs again with; without it, all.
        #[serde(default)]
        needs: Vec<ServiceName>,
        /// How long it may go on failing; the default is `timeouts.probe`.
        #[serde(default, deserialize_with = "written")]
        timeout: Option<Limit>,
    },
    /// A command exits with 0.
    Command {
        /// The shell command, run by `bash -lc` as the login user.
        run: Block,
        /// The source to run in; without it, the login user's home.
        #[serde(default, rename = "in", deserialize_with = "written")]
        in_source: Option<NameText>,
        /// Variables for it. `${env:NAME}` is taken from this machine at the last moment.
        #[serde(default)]
        env: Table<VarName, VarValue>,
        /// Services that it waits for and runs again with; without it, all.
        #[serde(default)]
        needs: Vec<ServiceName>,
        /// How long it may go on failing; the default is `timeouts.probe`.
        #[serde(default, deserialize_with = "written")]
        timeout: Option<Limit>,
    },
    /// A unit is active.
    Systemd {
        /// The unit, with or without `.service`.
        unit: Word,
        /// Services that it waits for and runs again with; without it, all.
        #[serde(default)]
        needs: Vec<ServiceName>,
        /// How long it may go on failing; the default is `timeouts.probe`.
        #[serde(default, deserialize_with = "written")]
        timeout: Option<Limit>,
    },
}

fn http_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let status = u16::deserialize(deserializer)?;
    if (100..=599).contains(&status) { Ok(Some(status)) } else { Err(serde::de::Error::custom("100 to 599")) }
}

/// A command on the host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRun {
    /// The source to run in; without it, the login user's home.
    #[serde(default, rename = "in", deserialize_with = "written")]
    pub(super) in_source: Option<NameText>,
    /// The shell command, run by `bash -lc` as the login user.
    pub(super) run: Block,
    /// Variables for it. `${env:NAME}` is taken from this machine at the last moment.
    #[serde(default)]
    pub(super) env: Table<VarName, VarValue>,
    /// How long it may take; the default is that of its kind in `timeouts`.
    #[serde(default, deserialize_with = "written")]
    pub(super) timeout: Option<Limit>,
}

/// The test suite.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTests {
    /// The source to run in; without it, the login user's home.
    #[serde(default, rename = "in", deserialize_with = "written")]
    pub(super) in_source: Option<NameText>,
    /// The shell command, run by `bash -lc` as the login user.
    pub(super) run: Block,
    /// Variables for it. `${env:NAME}` is taken from this machine at the last moment.
    #[serde(default)]
    pub(super) env: Table<VarName, VarValue>,
    /// `JUnit` file that it leaves, relative to where it runs; brought back to this machine.
    #[serde(default, deserialize_with = "written")]
    pub(super) junit: Option<OutputPath>,
    /// How long it may take; the default is `timeouts.tests`.
    #[serde(default, deserialize_with = "written")]
    pub(super) timeout: Option<Limit>,
}

/// How long each kind of step may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    /// Until the provider has made the host. Each provider has a default: bare metal takes longer.
    #[serde(default, deserialize_with = "written")]
    pub(super) provision: Option<Limit>,
    /// Until a login over SSH works.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "5m"))]
    pub(super) ssh: Option<Limit>,
    /// Until cloud-init is through.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "20m"))]
    pub(super) cloud_init: Option<Limit>,
    /// For copying one source.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "10m"))]
    pub(super) sync: Option<Limit>,
    /// For one build.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "30m"))]
    pub(super) build: Option<Limit>,
    /// Until one service is active.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "60s"))]
    pub(super) service: Option<Limit>,
    /// For one probe.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "30s"))]
    pub(super) probe: Option<Limit>,
    /// For `smoke`.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "10m"))]
    pub(super) smoke: Option<Limit>,
    /// For `tests`.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "60m"))]
    pub(super) tests: Option<Limit>,
    /// Until the host is gone and nothing of it is left.
    #[serde(default, deserialize_with = "written")]
    #[schemars(extend("default" = "15m"))]
    pub(super) destroy: Option<Limit>,
}
