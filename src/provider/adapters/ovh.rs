//! OVH Public Cloud: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Listed, Region, Sku, without_api};

/// Keys of provider `ovh`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Public Cloud project (service name).
    project: String,
    /// Region, `GRA11`.
    region: Option<String>,
    /// API account: `ovh-eu`, `ovh-ca` or `ovh-us`.
    api: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "ovh",
    about: "OVH Public Cloud; KVM on Metal instances",
    credentials: &["OVH_APPLICATION_SECRET", "OVH_CONSUMER_KEY", "OVH_APPLICATION_KEY"],
    kept: &["OVH_APPLICATION_KEY", "OVH_APPLICATION_SECRET", "OVH_CONSUMER_KEY"],
    kept_beside: &[],
    stands_for_itself: &[],
    sign_in: "",
    files: |_| vec![],
    tools: &[],
    endpoint: |world, keys| {
        crate::provider::http::endpoint(world, "ovh", keys["endpoint"].as_str(), "https://eu.api.ovh.com/1.0")
    },
    default_sku: Sku::fixed("bm-s1"),
    default_region: Region::fixed("GRA11"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(30),
    provision_timeout: Duration::from_mins(40),
    user_data_limit: 49152,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "region",
    init_keys: || "  project: 0123456789abcdef0123456789abcdef\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect: |_, config, _| without_api::<Config>("ovh", config),
};

fn kvm(sku: &Sku) -> KvmSupport {
    // Metal instances are real hardware; nothing confirms nesting on the virtual ones.
    if sku.as_str().starts_with("bm-") { KvmSupport::Yes } else { KvmSupport::Unknown }
}

const SOURCE: &str = "catalogue without VAT, 2026-08";
static PRICES: &[Listed] = &[
    Listed::new("bm-s1", "", 500_000, "EUR", SOURCE),
    Listed::new("bm-m1", "", 850_000, "EUR", SOURCE),
    Listed::new("bm-l1", "", 1_450_000, "EUR", SOURCE),
];
