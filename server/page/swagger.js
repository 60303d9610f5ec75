// Swagger UI of this server's own document; fields and answers are shown, requests are sent from the page.
const element = document.getElementById("api");
SwaggerUIBundle({
  url: element.dataset.openapi,
  domNode: element,
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  validatorUrl: null,
});
