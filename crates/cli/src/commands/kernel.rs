//! `kernel`: the kernels that guests boot.

use std::sync::Arc;

use serde_json::{Value, json};
use smolvm_image::{
    Cache, Kernel, KernelChoice, KernelError, KernelFlavour, NoProgress, PreparedKernel, Progress,
    build_kernel, kernel_choice, kernels, use_kernel,
};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::table::table;
use crate::text;

/// `kernel` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Build the tuned kernel, which boots faster and has what containers need; takes minutes.
    Build,
    /// List the kernels there are, and which one guests boot.
    #[command(visible_alias = "ls")]
    List,
    /// Let guests boot this kernel from their next start on.
    Use(UseArgs),
}

/// `kernel use` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct UseArgs {
    /// stock, tuned, or the release of a kernel as `kernel list` shows it.
    #[arg(value_name = "NAME", value_parser = choice)]
    choice: KernelChoice,
}

fn choice(name: &str) -> Result<KernelChoice, String> {
    KernelChoice::try_from(name.to_owned()).map_err(|error| error.to_string())
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Build => "kernel.build",
            Self::List => "kernel.list",
            Self::Use(_) => "kernel.use",
        }
    }
}

/// Builds, lists or chooses.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    match command {
        Command::Build => build(context).await,
        Command::List => list(context),
        Command::Use(args) => choose(args.choice, context),
    }
}

async fn build(context: &Context) -> Result<Report, Failure> {
    let cache = Cache::open(&context.installation.cache_dir)?;
    let activity = context.activity("building the kernel");
    let progress: Arc<dyn Progress> = activity.progress();
    let builder = cache.clone();
    let kernel = tokio::task::spawn_blocking(move || build_kernel(&builder, &*progress))
        .await
        .expect("building does not panic and is never cancelled")?;
    drop(activity);
    let listed = kernels(&cache, &NoProgress)?;
    let row = listed.iter().find(|row| row.kernel.image == kernel.image);
    let is_used = row.is_some_and(|row| row.is_used);
    let mut text = format!(
        "{} of {}: {}\n",
        kernel.release,
        kernel.package,
        kernel.image.display()
    );
    text.push_str(if is_used {
        "Guests boot it from their next start on.\n"
    } else {
        "Guests boot another one, as was chosen; to boot this one: smolvm kernel use tuned\n"
    });
    let data = json!({"kernel": row.map(kernel_json), "used": is_used});
    Ok(Report::new(data, text))
}

fn list(context: &Context) -> Result<Report, Failure> {
    let cache = Cache::open(&context.installation.cache_dir)?;
    let choice = kernel_choice(&cache)?;
    let listed = kernels(&cache, &NoProgress)?;
    let mut text = text_of(&listed);
    let is_used = listed.iter().any(|row| row.is_used);
    // A stock kernel is fetched when it is needed.
    if let Some(choice) = choice
        .as_ref()
        .filter(|choice| **choice != KernelChoice::Stock)
        && !is_used
    {
        text.push_str(&format!(
            "Guests are to boot {choice}, which is not there: smolvm kernel use NAME\n"
        ));
    }
    let data = json!({
        "choice": choice.map(|choice| choice.to_string()),
        "kernels": listed.iter().map(kernel_json).collect::<Vec<_>>(),
    });
    Ok(Report::new(data, text))
}

fn text_of(listed: &[PreparedKernel]) -> String {
    let rows: Vec<[String; 5]> = listed.iter().map(row).collect();
    let mut text = match rows.as_slice() {
        [] => "There are no kernels yet. Fetch the stock one: smolvm setup\n".to_owned(),
        rows => table(["NAME", "RELEASE", "SIZE", "USED", "PACKAGE"], rows),
    };
    if !listed.iter().any(|row| row.flavour == KernelFlavour::Tuned) {
        text.push_str("The tuned kernel is not built. Build it: smolvm kernel build\n");
    }
    text
}

fn row(listed: &PreparedKernel) -> [String; 5] {
    [
        listed.flavour.as_str().to_owned(),
        listed.kernel.release.clone(),
        text::size(listed.size_bytes),
        if listed.is_used { "yes" } else { "-" }.to_owned(),
        listed.kernel.package.clone(),
    ]
}

fn kernel_json(listed: &PreparedKernel) -> Value {
    let Kernel {
        release,
        package,
        image,
        digest,
        ..
    } = &listed.kernel;
    json!({
        "name": listed.flavour.as_str(),
        "release": release,
        "package": package,
        "path": image,
        "digest": digest.to_string(),
        "size_bytes": listed.size_bytes,
        "used": listed.is_used,
    })
}

fn choose(choice: KernelChoice, context: &Context) -> Result<Report, Failure> {
    let cache = Cache::open(&context.installation.cache_dir)?;
    let name = choice.to_string();
    let kernel = use_kernel(&cache, choice, &NoProgress).map_err(|error| match error {
        error @ KernelError::Choice(_) => with_known(error, &cache),
        error => error.into(),
    })?;
    let release = kernel.map(|kernel| kernel.release);
    let text = match &release {
        Some(release) => format!("Guests boot {release} from their next start on.\n"),
        None => {
            format!("Guests boot the {name} kernel from their next start on, which fetches it.\n")
        }
    };
    Ok(Report::new(
        json!({"choice": name, "release": release}),
        text,
    ))
}

/// Returns the failure to choose a kernel, with those that could be chosen.
fn with_known(error: KernelError, cache: &Cache) -> Failure {
    let failure = Failure::from(error);
    let listed = kernels(cache, &NoProgress).unwrap_or_default();
    if listed.is_empty() {
        return failure;
    }
    let known: Vec<String> = listed.into_iter().map(|row| row.kernel.release).collect();
    failure.hint(format!("there are these kernels: {}", known.join(", ")))
}
