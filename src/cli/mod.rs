//! The verbs: load, call, render. No HTTP, no files, no rules.

mod apply;
mod complete;
mod connect;
mod destroy;
mod doctor;
mod exec;
mod graph;
mod init;
mod inventory;
mod lane;
mod lease;
mod list;
mod login;
mod logs;
mod plan;
mod prices;
mod run;
mod schema;
mod show;
pub mod signals;
mod state;
mod status;
mod sweep;
mod test;
mod ui;
mod validate;
mod whoami;

use std::path::PathBuf;
#[cfg(test)]
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(test)]
use crate::apply::steps::Connector;
use crate::error::{Failure, Kind};
#[cfg(test)]
use crate::provider::{Entry, Provider};
#[cfg(test)]
use crate::spec::Spec;
use crate::world::World;

pub use ui::Ui;

/// Ephemeral KVM hosts from a spec: plan, apply, test, destroy.
///
/// Exit codes: 0 done, 1 unexpected, 2 `plan --detailed-exitcode` found changes, 3 spec, 4 credentials or provider,
/// 5 a step failed (the host is up), 6 locked or stale, 7 something may still cost money, 64 usage.
#[derive(Debug, Parser)]
#[command(name = "lane", version, about, long_about, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: VerbArgs,
}

/// Flags that every verb takes.
#[derive(Debug, Args)]
struct GlobalArgs {
    /// Folder that holds a folder of state for each lane.
    #[arg(long, global = true, env = "LANE_STATE_DIR", default_value = "state", value_name = "DIR")]
    state_dir: PathBuf,
    /// Say only what went wrong.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Say more: steps that are left alone, causes of causes.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What a verb writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For machines; carries a version number.
    Json,
}

#[derive(Debug, Subcommand)]
enum VerbArgs {
    Init(init::InitArgs),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Whoami(whoami::WhoamiArgs),
    Doctor(doctor::DoctorArgs),
    Prices(prices::PricesArgs),
    Validate(validate::ValidateArgs),
    Schema(schema::SchemaArgs),
    Plan(plan::PlanArgs),
    Apply(apply::ApplyArgs),
    Destroy(destroy::DestroyArgs),
    Run(run::RunArgs),
    Test(test::TestArgs),
    Status(status::StatusArgs),
    #[command(alias = "ls")]
    List(list::ListArgs),
    Lease(lease::LeaseArgs),
    Sweep(sweep::SweepArgs),
    State(state::StateArgs),
    Show(show::ShowArgs),
    Graph(graph::GraphArgs),
    Ssh(exec::SshArgs),
    Exec(exec::ExecArgs),
    Logs(logs::LogsArgs),
    Completions(complete::CompletionsArgs),
}

/// What every verb gets.
#[derive(Debug, Clone)]
struct Context {
    world: World,
    ui: Ui,
    state_root: PathBuf,
    #[cfg(test)]
    stage: Option<Stage>,
}

/// What stands for the spec's file, the cloud and the way to a host where a test runs a verb.
#[cfg(test)]
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) spec: Spec,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) entry: &'static Entry,
    pub(crate) connector: Arc<dyn Connector>,
}

/// Runs a command line as the program does, on a stage.
#[cfg(test)]
pub(crate) async fn on_stage(
    world: World,
    state_root: PathBuf,
    stage: Stage,
    line: &[&str],
) -> Result<u8, Failure> {
    let cli = Cli::try_parse_from(std::iter::once(&"lane").chain(line)).expect("a command line");
    let context = Context { world, ui: Ui::silent(), state_root, stage: Some(stage) };
    carry_out(&context, cli.verb).await
}

/// Runs the program and returns its exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return if error.use_stderr() { Kind::Usage.exit_code() } else { 0 };
        }
    };
    let ui = Ui::new(cli.global.quiet, cli.global.verbose > 0);
    match dispatch(cli, ui) {
        Ok(code) => code,
        Err(failure) => {
            ui.failure(&failure);
            failure.kind.exit_code()
        }
    }
}

fn dispatch(cli: Cli, ui: Ui) -> Result<u8, Failure> {
    let world = World::capture().map_err(|error| {
        Failure::new(Kind::Unexpected, format!("the working folder cannot be read: {error}"))
            .hint("change to a folder that exists")
    })?;
    let state_root = world.cwd().join(&cli.global.state_dir);
    let context = Context {
        world,
        ui,
        state_root,
        #[cfg(test)]
        stage: None,
    };
    if !matches!(cli.verb, VerbArgs::Schema(_) | VerbArgs::Completions(_)) {
        lease::warn(&context);
    }
    // The verbs that never wait start no runtime: they answer in a few milliseconds.
    let verb = match cli.verb {
        VerbArgs::Init(args) => return init::run(&context, &args),
        VerbArgs::Login(args) => return login::run(&context, &args),
        VerbArgs::Logout(args) => return login::run_logout(&context, &args),
        VerbArgs::Prices(args) => return prices::run(&context, &args),
        VerbArgs::Validate(args) => return validate::run(&context, &args),
        VerbArgs::Schema(args) => return Ok(schema::run(&context, &args)),
        VerbArgs::List(args) if !args.asks_clouds() => return list::run(&context, &args),
        VerbArgs::Show(args) => return show::run(&context, &args),
        VerbArgs::Completions(args) => return Ok(complete::run(&context, &args)),
        verb => verb,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(
            |error| Failure::new(Kind::Unexpected, format!("the async runtime cannot start: {error}")),
        )?;
    let outcome = runtime.block_on(carry_out(&context, verb));
    // A blocked thread (a stuck file system, say) must not keep a second Ctrl-C from ending the program.
    runtime.shutdown_background();
    outcome
}

/// Runs a verb that may wait.
async fn carry_out(context: &Context, verb: VerbArgs) -> Result<u8, Failure> {
    match verb {
        VerbArgs::Plan(args) => plan::run(context, &args).await,
        VerbArgs::Apply(args) => apply::run(context, &args).await,
        VerbArgs::Destroy(args) => destroy::run(context, &args).await,
        VerbArgs::Run(args) => run::run(context, &args).await,
        VerbArgs::Test(args) => test::run(context, &args).await,
        VerbArgs::Status(args) => status::run(context, &args).await,
        VerbArgs::List(args) => list::run_cloud(context, &args).await,
        VerbArgs::Lease(args) => lease::run(context, &args).await,
        VerbArgs::State(args) => state::run(context, &args).await,
        VerbArgs::Sweep(args) => sweep::run(context, &args).await,
        VerbArgs::Doctor(args) => doctor::run(context, &args).await,
        VerbArgs::Whoami(args) => whoami::run(context, &args).await,
        VerbArgs::Graph(args) => graph::run(context, &args).await,
        VerbArgs::Ssh(args) => exec::run_ssh(context, &args).await,
        VerbArgs::Exec(args) => exec::run_exec(context, &args).await,
        VerbArgs::Logs(args) => logs::run(context, &args).await,
        VerbArgs::Init(_)
        | VerbArgs::Login(_)
        | VerbArgs::Logout(_)
        | VerbArgs::Prices(_)
        | VerbArgs::Validate(_)
        | VerbArgs::Schema(_)
        | VerbArgs::Show(_)
        | VerbArgs::Completions(_) => Ok(0),
    }
}
