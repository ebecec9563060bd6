// Keeps the fragments of a page current, and says so when it cannot: a page that hears no beat shows that it may be old.

const BEATS = 13000; // milliseconds without a beat after which nothing here is known to be true
const looking = new URLSearchParams({ page: document.body.dataset.page, about: document.body.dataset.about ?? "" });
const banner = document.getElementById("stale");
const said = document.getElementById("said");

let heard = Date.now();
let heardAt = performance.now();
let source = null;

function sentence() {
  const element = document.querySelector("[data-say]");
  return element ? element.textContent.trim() : "";
}

let spoken = sentence();

function speak() {
  const now = sentence();
  if (now !== spoken) {
    spoken = now;
    said.textContent = now;
  }
}

function swap({ id, html }) {
  const holder = document.getElementById(id);
  if (!holder || holder.innerHTML === html) {
    return;
  }
  const focused = holder.contains(document.activeElement) ? document.activeElement.id : "";
  const open = [...holder.querySelectorAll("details[open][id]")].map((details) => details.id);
  holder.innerHTML = html;
  for (const one of open) {
    const details = document.getElementById(one);
    if (details) {
      details.open = true;
    }
  }
  if (focused) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
  holder.dispatchEvent(new CustomEvent("swapped", { bubbles: true }));
  speak();
}

function beat() {
  heard = Date.now();
  heardAt = performance.now();
  fresh();
}

function fresh() {
  if (banner.textContent) {
    banner.textContent = "";
    document.documentElement.classList.remove("is-stale");
  }
}

function stale() {
  if (!banner.textContent) {
    const time = new Date(heard).toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    banner.textContent = banner.dataset.text.replace("{time}", time);
    document.documentElement.classList.add("is-stale");
  }
}

function connect() {
  source?.close();
  source = new EventSource(`/events?${looking}`);
  source.addEventListener("fragment", (event) => swap(JSON.parse(event.data)));
  source.addEventListener("beat", beat);
  source.addEventListener("gone", () => {
    // logged out meanwhile: the page may not show any longer what it shows
    source.close();
    location.reload();
  });
}

function watch() {
  if (document.hidden) {
    return;
  }
  if (performance.now() - heardAt > BEATS) {
    stale();
  }
  // a browser gives a connection up for good after some answers; we do not
  if (source.readyState === EventSource.CLOSED) {
    connect();
  }
}

connect();
setInterval(watch, 2000);
// a page that nobody sees holds no connection: browsers have few for one box
document.addEventListener("visibilitychange", () => {
  source.close();
  if (!document.hidden) {
    heardAt = Math.max(heardAt, performance.now() - BEATS + 3000);
    connect();
  }
});
window.addEventListener("pagehide", () => source.close());
window.addEventListener("pageshow", (event) => {
  if (event.persisted) {
    connect();
  }
});
