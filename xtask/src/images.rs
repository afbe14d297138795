//! Container images without a registry and without a daemon: a table of what there is, built by
//! buildah from the project's own Dockerfiles into archives in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key, is_by_product, remove};
use crate::overlay;
use crate::python;
use crate::roots::{self, Root};
use crate::run::{command, output, run, step, succeeds};

/// The tag under which every image of ours can be named without knowing its content.
pub(crate) const FIXED_TAG: &str = "dev";

/// An image of the table.
#[derive(Debug)]
pub(crate) struct Image {
    name: &'static str,
    /// None: the tag of the whole set, and `dev`.
    tag: Option<&'static str>,
    /// In the checkout.
    dockerfile: &'static str,
    /// Handed to the Dockerfile as build argument BASE.
    base: Option<&'static Root>,
    copies: Copies,
    needs: Needs,
}

/// What the Dockerfile can copy from.
#[derive(Debug, Clone, Copy)]
enum Copies {
    /// A folder of the checkout.
    Folder(&'static str),
    /// That folder, and below `wheels` what pip finds its `requirements.txt` to need.
    FolderAndWheels(&'static str),
    /// Nothing but the release binary, named `funcatron`.
    Binary,
    /// Nothing but this program of the Go build.
    Program(&'static str),
}

/// Who calls for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// The cluster itself: there is no pod without it.
    Node,
    /// The product and its tests.
    Product,
}

/// Every image there is. Adding one is adding it here.
const IMAGES: &[Image] = &[
    Image {
        name: "pause",
        tag: Some("1"),
        dockerfile: "e2e/cluster/images/pause.Dockerfile",
        base: None,
        copies: Copies::Program("pause"),
        needs: Needs::Node,
    },
    Image {
        name: "coredns",
        tag: Some("1.15.0"),
        dockerfile: "e2e/cluster/images/coredns.Dockerfile",
        base: None,
        copies: Copies::Program("coredns"),
        needs: Needs::Node,
    },
    Image {
        name: "rabbitmq",
        tag: Some("4.3"),
        dockerfile: "e2e/cluster/rabbitmq/Dockerfile",
        base: Some(&roots::RABBITMQ),
        copies: Copies::Folder("e2e/cluster/rabbitmq"),
        needs: Needs::Product,
    },
    Image {
        name: "funcatron",
        tag: None,
        dockerfile: "Dockerfile",
        base: Some(&roots::DEBIAN),
        copies: Copies::Binary,
        needs: Needs::Product,
    },
    Image {
        name: "funcatron-host-python",
        tag: None,
        dockerfile: "runner/hosts/python/Dockerfile",
        base: Some(&roots::PYTHON),
        copies: Copies::Folder("runner/hosts/python"),
        needs: Needs::Product,
    },
    Image {
        name: "funcatron-host-node",
        tag: None,
        dockerfile: "runner/hosts/node/Dockerfile",
        base: Some(&roots::NODE),
        copies: Copies::Folder("runner/hosts/node"),
        needs: Needs::Product,
    },
    Image {
        name: "invoice-fdk",
        tag: None,
        dockerfile: "examples/images/echo-fdk/Dockerfile",
        base: Some(&roots::PYTHON),
        copies: Copies::FolderAndWheels("examples/images/echo-fdk"),
        needs: Needs::Product,
    },
];

/// A built image.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// As it is named inside the archive.
    pub(crate) name: String,
    /// What else it is to be called.
    pub(crate) alias: Option<String>,
    /// An OCI archive.
    pub(crate) archive: PathBuf,
    /// Of all that it was built from.
    pub(crate) key: String,
}

/// Builds images of one checkout.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    cache: &'a Cache,
    checkout: &'a Path,
    programs: &'a Path,
    storage_driver: &'static str,
}

impl<'a> Builder<'a> {
    /// `programs` is the folder of the Go build.
    pub(crate) fn new(cache: &'a Cache, checkout: &'a Path, programs: &'a Path) -> Result<Self> {
        let works = overlay::works_below(&cache.folder("buildah")?);
        Ok(Self { cache, checkout, programs, storage_driver: if works { "overlay" } else { "vfs" } })
    }

    /// What a node needs to run any pod.
    pub(crate) fn for_node(&self) -> Result<Vec<Built>> {
        of(Needs::Node).map(|image| self.build(image, None)).collect()
    }

    /// The product and what its tests use. The second is the tag that those of this checkout share: it
    /// changes with any of them, so that an upgrade rolls what has changed.
    pub(crate) fn for_product(&self, binary: &Path) -> Result<(Vec<Built>, String)> {
        let mut set = Key::new("1");
        for image in of(Needs::Product) {
            set = set.with(self.key(image, Some(binary))?.hex());
        }
        let tag = set.hex();
        let built = of(Needs::Product).map(|image| {
            let mut built = self.build(image, Some(binary))?;
            built.alias = image.tag.is_none().then(|| format!("localhost/{}:{tag}", image.name));
            Ok(built)
        });
        Ok((built.collect::<Result<_>>()?, tag))
    }

    /// One image of the table by its name, under its fixed tag; one that holds the binary is not made
    /// alone.
    pub(crate) fn one(&self, name: &str) -> Result<Built> {
        let found = IMAGES.iter().find(|image| image.name == name);
        let known = || IMAGES.iter().map(|image| image.name).collect::<Vec<_>>().join(", ");
        self.build(found.with_context(|| format!("no image {name}; there are {}", known()))?, None)
    }

    /// Gives the images to a registry, under the names that the node would know them by.
    pub(crate) fn push(&self, images: &[Built], registry: &str) -> Result<()> {
        for image in images {
            let name = image.alias.as_ref().unwrap_or(&image.name);
            let target = format!("docker://{registry}/{}", name.trim_start_matches("localhost/"));
            let archive = format!("oci-archive:{}", image.archive.display());
            step(&format!("{target} pushed"), || {
                let id = output(self.buildah("pull").args(["--quiet", &archive]))?;
                output(self.buildah("push").args([id.trim(), &target])).map(|_| ())
            })?;
        }
        Ok(())
    }

    fn build(&self, image: &Image, binary: Option<&Path>) -> Result<Built> {
        let key = self.key(image, binary)?;
        let name = format!("localhost/{}:{}", image.name, image.tag.unwrap_or(FIXED_TAG));
        let archive = self.cache.entry(&format!("image-{}.tar", image.name), &key, |archive| {
            step(&format!("image {name}"), || {
                let context = self.cache.folder(&format!("context-{}", image.name))?;
                self.stage(image, binary, &context)?;
                let base = image.base.map(|root| self.base(root)).transpose()?;
                self.bud(&name, &self.checkout.join(image.dockerfile), base.as_deref(), &context)?;
                let target = format!("oci-archive:{}:{name}", archive.display());
                // It is unpacked at once, on this machine.
                output(self.buildah("push").args(["--disable-compression", &name, &target]))?;
                remove(&context)
            })
        })?;
        Ok(Built { name, alias: None, archive, key: key.hex() })
    }

    fn key(&self, image: &Image, binary: Option<&Path>) -> Result<Key> {
        let dockerfile = self.checkout.join(image.dockerfile);
        if !dockerfile.exists() {
            bail!("image {}: there is no {}", image.name, image.dockerfile);
        }
        let key = Key::new("1").with_files(&dockerfile)?;
        let key = image.base.map_or(key.clone(), |root| key.with(root.key().hex()));
        key.with_files(&self.copied(image, binary)?)
    }

    /// What the context is made of.
    fn copied(&self, image: &Image, binary: Option<&Path>) -> Result<PathBuf> {
        Ok(match image.copies {
            Copies::Folder(folder) | Copies::FolderAndWheels(folder) => self.checkout.join(folder),
            Copies::Binary => binary.context("the release binary is not built yet")?.to_owned(),
            Copies::Program(program) => self.programs.join(program),
        })
    }

    fn stage(&self, image: &Image, binary: Option<&Path>, context: &Path) -> Result<()> {
        remove(context)?;
        fs::create_dir_all(context).with_context(|| format!("create {}", context.display()))?;
        let from = self.copied(image, binary)?;
        match image.copies {
            Copies::Binary => copy(&from, &context.join("funcatron")),
            Copies::Program(program) => copy(&from, &context.join(program)),
            Copies::Folder(_) => copy(&from, context),
            Copies::FolderAndWheels(_) => {
                copy(&from, context)?;
                download_wheels(self.cache, context)
            }
        }
    }

    /// The base image, made from its root if buildah's store does not hold it yet.
    fn base(&self, root: &Root) -> Result<String> {
        let keyed = format!("{}-{}", root.image(), root.key().hex());
        if !succeeds(self.buildah("inspect").args(["--type", "image", &keyed])) {
            let context = self.cache.folder("context-base")?;
            let tar = root.tar(self.cache)?;
            remove(&context.join("root.tar"))?;
            fs::hard_link(&tar, context.join("root.tar"))
                .with_context(|| format!("link {}", tar.display()))?;
            let dockerfile = context.join("Dockerfile");
            fs::write(&dockerfile, "FROM scratch\nADD root.tar /\nENV PATH=/usr/local/bin:/usr/bin:/bin\n")
                .with_context(|| format!("write {}", dockerfile.display()))?;
            self.bud(&keyed, &dockerfile, None, &context)?;
            remove(&context)?;
            self.forget_others(&root.image(), &keyed)?;
        }
        run(self.buildah("tag").args([&keyed, &root.image()]))?;
        Ok(root.image())
    }

    /// Removes bases of the same root that were made of something else, and what stands on no name.
    fn forget_others(&self, image: &str, keyed: &str) -> Result<()> {
        let names = output(self.buildah("images").args(["--format", "{{.Name}}:{{.Tag}}"]))?;
        for name in names.lines().filter(|name| name.starts_with(&format!("{image}-")) && *name != keyed) {
            output(self.buildah("rmi").args(["--force", name]))?;
        }
        output(self.buildah("rmi").arg("--prune")).map(|_| ())
    }

    fn bud(&self, name: &str, dockerfile: &Path, base: Option<&str>, context: &Path) -> Result<()> {
        let mut bud = self.buildah("bud");
        bud.args(["--isolation", "chroot", "--pull-never", "--tag", name]);
        if let Some(base) = base {
            bud.arg("--build-arg").arg(format!("BASE={base}"));
        }
        output(bud.arg("--file").arg(dockerfile).arg(context)).map(|_| ())
    }

    fn buildah(&self, act: &str) -> std::process::Command {
        let store = self.cache.root().join("buildah");
        let mut buildah = command("buildah", ["--storage-driver", self.storage_driver, "--root"]);
        buildah.arg(store).args(["--runroot", "/run/funcatron-buildah", act]);
        buildah
    }
}

fn of(needs: Needs) -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().filter(move |image| image.needs == needs)
}

/// pip resolves for the Python of the base image, which is not the one that runs it.
fn download_wheels(cache: &Cache, context: &Path) -> Result<()> {
    let python = python::environment(cache, None)?;
    let mut pip = command(python, ["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--only-binary=:all:", "--python-version", roots::PYTHON_VERSION, "--requirement"]);
    output(pip.arg(context.join("requirements.txt")).arg("--dest").arg(context.join("wheels"))).map(|_| ())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).with_context(|| format!("copy {}", from.display())).map(|_| ());
    }
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for child in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let child = child.with_context(|| format!("list {}", from.display()))?.path();
        if !is_by_product(&child) {
            copy(&child, &to.join(child.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}
