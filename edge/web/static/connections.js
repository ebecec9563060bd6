// A test is begun without leaving the page, so that its steps come up where the finger is. Everything else is a plain form.

const form = document.getElementById("connections");
const told = document.getElementById("told");

form.addEventListener("submit", async (event) => {
  const button = event.submitter;
  if (!button || button.hasAttribute("formaction")) {
    return;
  }
  event.preventDefault();
  if (button.getAttribute("aria-disabled") === "true") {
    return;
  }
  button.setAttribute("aria-disabled", "true");
  told.textContent = "";
  const body = new URLSearchParams(new FormData(form, button));
  try {
    const answer = await fetch(form.action, { method: "POST", body, headers: { Accept: "application/json" } });
    if (!answer.ok) {
      throw new Error(`${answer.status}`);
    }
    const { said } = await answer.json();
    told.textContent = said;
    if (said) {
      button.removeAttribute("aria-disabled");
    }
  } catch {
    // logged out, or the box is away: what the page says next is the truth
    location.reload();
  }
});
