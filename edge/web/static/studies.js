// Keeps pictures and the place of the reader while the list follows the box: a picture is asked for once, and what
// comes on top moves nothing that is being read.

const kept = new Map(); // by address
const MOST = 200;
let anchor = null;

function picture(address) {
  let image = kept.get(address);
  if (!image) {
    image = new Image();
    image.alt = "";
    image.decoding = "async";
    image.loading = "lazy";
    image.src = address;
    if (kept.size >= MOST) {
      kept.delete(kept.keys().next().value);
    }
    kept.set(address, image);
  }
  return image;
}

function place() {
  for (const holder of document.querySelectorAll("[data-picture]")) {
    holder.replaceChildren(picture(holder.dataset.picture));
  }
}

function remember() {
  anchor = null;
  for (const one of document.querySelectorAll(".study[id]")) {
    const top = one.getBoundingClientRect().top;
    if (top >= 0) {
      anchor = { id: one.id, top };
      return;
    }
  }
}

function hold() {
  const one = anchor && document.getElementById(anchor.id);
  if (one && window.scrollY > 0) {
    window.scrollBy({ top: one.getBoundingClientRect().top - anchor.top, behavior: "instant" });
  }
}

// on a phone the answers come before the fields that few people need
function shorten() {
  const form = document.querySelector(".search");
  const further = document.getElementById("further");
  const used = form.querySelector(".trouble") || [...form.querySelectorAll(".extra input")].some((one) => one.value);
  further.hidden = false;
  const brief = (is) => {
    form.classList.toggle("brief", is);
    further.setAttribute("aria-expanded", String(!is));
  };
  brief(!used);
  further.addEventListener("click", () => brief(!form.classList.contains("brief")));
}

shorten();
place();
remember();
document.addEventListener("swapped", () => {
  place();
  hold();
  remember();
});
document.addEventListener("scroll", remember, { passive: true });
window.addEventListener("resize", remember);
