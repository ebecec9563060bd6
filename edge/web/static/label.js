// Prints at a click, where there are scripts: without them the browser's own menu does it.

const button = document.getElementById("print");
button.hidden = false;
button.addEventListener("click", () => print());
