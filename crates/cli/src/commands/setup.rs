//! `setup`: prepares what guests boot from, so that the first run need not.

use std::sync::Arc;

use serde_json::json;
use smolvm_image::{
    Cache, ImageName, NoProgress, Progress, initramfs, kernel, overlay_template, prepared_kernel,
    prepared_root_image, root_image,
};
use smolvm_sandbox::{
    DEFAULT_DISK, ErrorKind, Installation, Lifetime, SandboxId, SandboxSpec, prepare_template,
};

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

    /// Prepare the image of browser sessions as well.
    #[arg(long)]
    browser: bool,

    /// Only say whether everything is prepared; exit code 1 when not.
    #[arg(long, alias = "check-only")]
    check: bool,
}

/// What is prepared.
struct Prepared {
    kernel: Option<String>,
    /// The images asked for, and the size of each that is prepared.
    images: Vec<(ImageName, Option<String>)>,
}

/// Prepares, or looks.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let image: ImageName = args.image.parse().map_err(|error| {
        let known = smolvm_image::known_images().join(", ");
        Failure::new(ErrorKind::InvalidInput, text::chain(&error))
            .code("unknown_image")
            .hint(format!("there are these images: {known}"))
    })?;
    let mut images = vec![image];
    if args.browser && args.image != smolvm_image::BROWSER_IMAGE {
        images.push(smolvm_image::BROWSER_IMAGE.parse().expect("a legal name"));
    }
    let installation = context.installation.clone();
    let activity = context.activity("preparing");
    let progress = activity.progress();
    let is_check = args.check;
    let preparing = Arc::clone(&progress);
    let prepared = tokio::task::spawn_blocking(move || {
        if is_check {
            look(&installation, images)
        } else {
            prepare(&installation, images, &*preparing)
        }
    })
    .await
    .expect("preparing does not panic and is never cancelled")?;
    if !args.check {
        prepare_template_of(args.image, context, progress).await;
    }
    drop(activity);
    Ok(report(&prepared))
}

/// Makes the template of sandboxes for which nothing but an image is asked. Without one they boot, so
/// nothing is lost but time.
async fn prepare_template_of(image: String, context: &Context, progress: Arc<dyn Progress>) {
    let mut spec = SandboxSpec::new(SandboxId::random(), Lifetime::Leased);
    spec.image = image;
    let installation = (*context.installation).clone();
    if let Err(error) = prepare_template(spec, installation, Arc::clone(&progress)).await {
        progress.warning(&format!("there is no template: {}", text::chain(&error)));
    }
}

fn look(installation: &Installation, images: Vec<ImageName>) -> Result<Prepared, Failure> {
    let cache = Cache::open(&installation.cache_dir)?;
    let kernel = prepared_kernel(&cache, &NoProgress)?;
    let mut looked_at = Vec::new();
    for name in images {
        let image = prepared_root_image(&cache, &name, &NoProgress)?;
        looked_at.push((name, image.map(|image| text::size(image.size_bytes))));
    }
    Ok(Prepared {
        kernel: kernel.map(|kernel| kernel.release),
        images: looked_at,
    })
}

fn prepare(
    installation: &Installation,
    images: Vec<ImageName>,
    progress: &dyn Progress,
) -> Result<Prepared, Failure> {
    let cache = Cache::open(&installation.cache_dir)?;
    let kernel = kernel(&cache, progress)?;
    initramfs(&cache, &kernel, &installation.agent, progress)?;
    overlay_template(&cache, DEFAULT_DISK.get(), progress)?;
    let mut prepared = Vec::new();
    for name in images {
        let image = root_image(&cache, &name, progress)?;
        prepared.push((name, Some(text::size(image.size_bytes))));
    }
    Ok(Prepared {
        kernel: Some(kernel.release),
        images: prepared,
    })
}

fn report(prepared: &Prepared) -> Report {
    let is_ready =
        prepared.kernel.is_some() && prepared.images.iter().all(|(_, size)| size.is_some());
    let shown = |what: &Option<String>| what.clone().unwrap_or_else(|| "not prepared".to_owned());
    let images = prepared
        .images
        .iter()
        .map(|(name, size)| ("image", format!("{name}: {}", shown(size))));
    let lines: Vec<_> = [("kernel", shown(&prepared.kernel))]
        .into_iter()
        .chain(images)
        .collect();
    let text = table::pairs(&lines);
    let images: Vec<_> = prepared
        .images
        .iter()
        .map(|(name, size)| json!({"prepared": size.is_some(), "name": name.as_str()}))
        .collect();
    let data = json!({
        "ready": is_ready,
        "kernel": {"prepared": prepared.kernel.is_some(), "release": prepared.kernel},
        "image": images[0],
        "images": images,
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
