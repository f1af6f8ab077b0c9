//! `setup`: prepares what guests boot from, so that the first run need not.

use serde_json::json;
use smolvm_image::{
    Cache, ImageName, NoProgress, Progress, initramfs, kernel, overlay_template, prepared_kernel,
    prepared_root_image, root_image,
};
use smolvm_sandbox::{DEFAULT_DISK, ErrorKind, Installation};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::{table, text};

/// `setup` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image to prepare.
    #[arg(long, default_value = smolvm_image::DEFAULT_IMAGE)]
    image: String,

    /// Only say whether everything is prepared; exit code 1 when not.
    #[arg(long, alias = "check-only")]
    check: bool,
}

/// What is prepared.
struct Prepared {
    kernel: Option<String>,
    image: Option<String>,
}

/// Prepares, or looks.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let image: ImageName = args.image.parse().map_err(|error| {
        let known = smolvm_image::known_images().join(", ");
        Failure::new(ErrorKind::InvalidInput, text::chain(&error))
            .code("unknown_image")
            .hint(format!("there are these images: {known}"))
    })?;
    let installation = context.installation.clone();
    let activity = context.activity("preparing");
    let progress = activity.progress();
    let is_check = args.check;
    let prepared = tokio::task::spawn_blocking(move || {
        if is_check {
            look(&installation, &image)
        } else {
            prepare(&installation, &image, &*progress)
        }
    })
    .await
    .expect("preparing does not panic and is never cancelled")?;
    drop(activity);
    Ok(report(&prepared, &args.image))
}

fn look(installation: &Installation, image: &ImageName) -> Result<Prepared, Failure> {
    let cache = Cache::open(&installation.cache_dir)?;
    let kernel = prepared_kernel(&cache, &NoProgress)?;
    let image = prepared_root_image(&cache, image, &NoProgress)?;
    Ok(Prepared {
        kernel: kernel.map(|kernel| kernel.release),
        image: image.map(|image| text::size(image.size_bytes)),
    })
}

fn prepare(
    installation: &Installation,
    image: &ImageName,
    progress: &dyn Progress,
) -> Result<Prepared, Failure> {
    let cache = Cache::open(&installation.cache_dir)?;
    let kernel = kernel(&cache, progress)?;
    initramfs(&cache, &kernel, &installation.agent, progress)?;
    overlay_template(&cache, DEFAULT_DISK.get(), progress)?;
    let image = root_image(&cache, image, progress)?;
    Ok(Prepared {
        kernel: Some(kernel.release),
        image: Some(text::size(image.size_bytes)),
    })
}

fn report(prepared: &Prepared, image: &str) -> Report {
    let is_ready = prepared.kernel.is_some() && prepared.image.is_some();
    let shown = |what: &Option<String>| what.clone().unwrap_or_else(|| "not prepared".to_owned());
    let text = table::pairs(&[
        ("kernel", shown(&prepared.kernel)),
        ("image", format!("{image}: {}", shown(&prepared.image))),
    ]);
    let data = json!({
        "ready": is_ready,
        "kernel": {"prepared": prepared.kernel.is_some(), "release": prepared.kernel},
        "image": {"prepared": prepared.image.is_some(), "name": image},
    });
    let mut report = Report::new(data, text);
    if !is_ready {
        report.exit_code = 1;
        let missing = Failure::new(ErrorKind::NotFound, "not everything is prepared");
        report.failure = Some(
            missing
                .code("not_prepared")
                .hint("prepare it: smolvm setup"),
        );
    }
    report
}
