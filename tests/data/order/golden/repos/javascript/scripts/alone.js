console.log("no imports at all");
