//! Amazon EC2: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Listed, Region, Sku, without_api};

/// Keys of provider `aws`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Region, `us-east-1`.
    region: Option<String>,
    /// Profile of the shared configuration file.
    profile: Option<String>,
    /// Subnet, where there is no default VPC.
    subnet: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "aws",
    about: "Amazon EC2; KVM on metal types",
    credentials: &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
    tools: &[],
    endpoint: "https://ec2.us-east-1.amazonaws.com",
    default_sku: Sku::fixed("c5.metal"),
    default_region: Region::fixed("us-east-1"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_mins(1),
    provision_timeout: Duration::from_mins(40),
    user_data_limit: 16384,
    cloud_clock: false,
    timer_stops_bill: true,
    region_key: "region",
    init_keys: || "  region: us-east-1\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect: |_, config, _| without_api::<Config>("aws", config),
};

fn kvm(sku: &Sku) -> KvmSupport {
    // Metal types are real hardware; some virtual 8th-generation Intel types nest (EC2 API, CpuOptionsRequest).
    let family = sku.as_str().split('.').next().unwrap_or_default();
    if sku.as_str().contains(".metal")
        || ["c8i", "m8i", "r8i", "c8i-flex", "m8i-flex", "r8i-flex"].contains(&family)
    {
        KvmSupport::Yes
    } else if family.starts_with('t') || family.ends_with('g') {
        KvmSupport::No
    } else {
        KvmSupport::Unknown
    }
}

/// The list of 2025-03 for metal has not changed for years.
const METAL: &str = "list price, 2025-03";
static PRICES: &[Listed] = &[
    Listed::new("m8i.xlarge", "us-east-1", 212_000, "USD", "list price, 2026-04"),
    Listed::new("c5n.metal", "us-east-1", 3_888_000, "USD", METAL),
    Listed::new("c5.metal", "us-east-1", 4_080_000, "USD", METAL),
    Listed::new("c5.metal", "eu-central-1", 4_656_000, "USD", METAL),
    Listed::new("m5.metal", "us-east-1", 4_608_000, "USD", METAL),
    Listed::new("m5.metal", "eu-central-1", 5_520_000, "USD", METAL),
];
