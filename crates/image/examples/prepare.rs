//! Prepares everything a guest boots from, and says where it is and how long each step took.
//!
//! ```text
//! cargo run --release -p smolvm-image --example prepare -- CACHE AGENT [OVERLAY_MIB]
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use smolvm_image::{Cache, ImageName, Progress, initramfs, kernel, overlay_template, root_image};

/// Prints each step with its time.
struct Print(Mutex<Instant>);

impl Progress for Print {
    fn started(&self, _step: &str, _total: Option<u64>) {
        *self.0.lock().expect("printing does not panic") = Instant::now();
    }

    fn advanced(&self, _done: u64) {}

    fn finished(&self, step: &str) {
        let started = self.0.lock().expect("printing does not panic");
        println!("{:8.2} s  {step}", started.elapsed().as_secs_f64());
    }

    fn warning(&self, message: &str) {
        println!("warning: {message}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(root), Some(agent)) = (arguments.first(), arguments.get(1)) else {
        return Err("usage: prepare CACHE AGENT [OVERLAY_MIB]".into());
    };
    let size_mib = arguments.get(2).map_or(Ok(2048), |text| text.parse())?;
    let progress = Print(Mutex::new(Instant::now()));
    let started = Instant::now();
    let cache = Cache::open(Path::new(root))?;
    let kernel = kernel(&cache, &progress)?;
    let initramfs = initramfs(&cache, &kernel, Path::new(agent), &progress)?;
    let overlay = overlay_template(&cache, size_mib, &progress)?;
    println!("kernel     {} ({})", kernel.image.display(), kernel.package);
    println!("initramfs  {}", initramfs.path.display());
    println!("overlay    {}", overlay.display());
    let root = root_image(&cache, &ImageName::default(), &progress)?;
    println!(
        "root image {} ({} MiB)",
        root.path.display(),
        root.size_bytes >> 20
    );
    println!("{:8.2} s  in all", started.elapsed().as_secs_f64());
    Ok(())
}
